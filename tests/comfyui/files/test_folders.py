"""The concept_masks folder: the user's own folders stay, only mask files are listed, saving never leaves the folder."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.files import folders


@pytest.fixture
def own(host, tmp_path, monkeypatch):
    """A host as after extra_model_paths.yaml: the key exists, with one folder and no extensions."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "pack")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, folders.FOLDER, ([str(tmp_path / "users")], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for place in ("users/deep/a.safetensors", "users/a.png", "pack/example.safetensors"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_the_users_folders_stay_and_only_masks_are_listed(own):
    assert sorted(folders.mask_names()) == [str(Path("deep/a.safetensors")), "example.safetensors"]
    folders.register()
    paths, extensions = folder_paths.folder_names_and_paths[folders.FOLDER]
    assert paths == [str(own / "models" / "concept_masks"), str(own / "users"), str(own / "pack")]
    assert extensions == {".safetensors"}


def test_names_lead_to_files(own):
    assert folders.path_of("deep/a.safetensors") == own / "users" / "deep" / "a.safetensors"
    for name in ("b.safetensors", "a.png", "../users/deep/a.png"):
        with pytest.raises(ConesError, match="no concept mask"):
            folders.path_of(name)


@pytest.mark.parametrize("name", ["sks", "sks.safetensors", "people/sks", "people\\sks", " sks "])
def test_saving_stays_in_the_first_folder(own, name):
    path = folders.save_path(name, overwrite=False)
    assert path.suffix == ".safetensors" and path.parent.is_dir()
    assert (own / "models" / "concept_masks").resolve() in path.parents
    assert folders.name_of(path) == str(Path(*path.parts[len((own / "models" / "concept_masks").resolve().parts) :]))


@pytest.mark.parametrize("name", ["", " ", "/", "..", "../x", "a/../../x", "/etc/x", "a:b", ".hidden", "x?", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(own, name):
    with pytest.raises(ConesError, match="cannot be a file name"):
        folders.save_path(name, overwrite=False)


def test_a_link_out_of_the_folder_is_refused(own):
    folders.register()
    (own / "models" / "concept_masks" / "out").symlink_to(own / "users")
    with pytest.raises(ConesError, match="leads out"):
        folders.save_path("out/x", overwrite=False)


def test_existing_files_are_kept_or_overwritten(own):
    first = folders.save_path("sks", overwrite=False)
    first.write_bytes(b"")
    second = folders.save_path("sks", overwrite=False)
    second.write_bytes(b"")
    assert (second.name, folders.save_path("sks", overwrite=False).name) == ("sks-2.safetensors", "sks-3.safetensors")
    assert folders.save_path("sks", overwrite=True) == first
