"""The concept_masks folder: the user's own folders stay, only mask files are listed, saving never leaves the folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.cones_ops.masks.mask_file import load_mask
from cones_concept_neurons.nodes import ConesExtension
from cones_concept_neurons.nodes.host.files import extra_paths, folders
from cones_concept_neurons.nodes.host.files.save_mask import keep_mask


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


def test_the_folder_has_been_walked_when_the_nodes_are_known(own):
    asyncio.run(ConesExtension().get_node_list())
    names = folder_paths.filename_list_cache[folders.FOLDER][0]  # what a request for the list is answered from
    assert sorted(names) == [str(Path("deep/a.safetensors")), "example.safetensors"]


def test_names_lead_to_files(own):
    assert folders.path_of("deep/a.safetensors") == own / "users" / "deep" / "a.safetensors"
    for name in ("b.safetensors", "a.png", "../users/deep/a.png"):
        with pytest.raises(ConesError, match="no concept mask"):
            folders.path_of(name)


@pytest.mark.parametrize("name", ["sks", "sks.safetensors", "sks.SAFETENSORS", "people/sks", "people\\sks", " sks "])
def test_saving_stays_in_the_first_folder(own, name):
    path = folders.wanted_path(name)
    root = (own / "models" / "concept_masks").resolve()
    assert path.suffix == ".safetensors" and root in path.parents
    assert folders.name_of(path) == str(path.relative_to(root)) and not root.exists()


@pytest.mark.parametrize("name", ["", " ", "/", "..", "../x", "a/../../x", "/etc/x", "a:b", ".hidden", "x?", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(own, name):
    with pytest.raises(ConesError, match="cannot be a file name"):
        folders.wanted_path(name)


@pytest.mark.parametrize("name", ["con", "aux/x", "NUL.x"])
def test_names_of_windows_devices_are_refused(own, name):
    with pytest.raises(ConesError, match="cannot be a file name on every system"):
        folders.wanted_path(name)


def test_bytes_count_not_letters(own):
    assert folders.wanted_path("x" * 238)  # 238 + "-9999" + ".safetensors" = 255 bytes
    assert folders.wanted_path("\u732b" * 79)  # 3 bytes each: 237
    for name in ("x" * 239, "\u732b" * 80):
        with pytest.raises(ConesError, match="bytes; at most 255 fit"):
            folders.wanted_path(name)


def test_a_file_in_place_of_a_folder_is_refused(own):
    root = own / "models" / "concept_masks"
    root.mkdir(parents=True)
    (root / "people").write_bytes(b"")
    (root / "dog.safetensors").mkdir()
    with pytest.raises(ConesError, match="people is not a folder"):
        folders.wanted_path("people/sks")
    with pytest.raises(ConesError, match="is a folder"):
        folders.wanted_path("dog")


def test_a_linked_subfolder_can_be_saved_to_as_it_can_be_loaded_from(own):
    (own / "models" / "concept_masks").mkdir(parents=True)
    (own / "models" / "concept_masks" / "out").symlink_to(own / "users")
    path = folders.wanted_path("out/x")
    path.write_bytes(b"")
    assert folders.name_of(path) == str(Path("out/x.safetensors"))
    assert folders.path_of("out/x.safetensors") and (own / "users" / "x.safetensors").is_file()


def test_names_of_other_systems_lead_to_files(own):
    (own / "users" / "B.SAFETENSORS").write_bytes(b"")
    assert folders.path_of("B.SAFETENSORS") == own / "users" / "B.SAFETENSORS"
    assert folders.path_of("deep\\a.safetensors") == own / "users" / "deep" / "a.safetensors"


def test_a_dangling_link_or_a_closed_folder_does_not_stop_the_pack(own):
    link = own / "models" / "concept_masks"
    link.parent.mkdir()
    link.symlink_to(own / "gone")
    assert "example.safetensors" in folders.mask_names()
    assert folders.wanted_path("x").parent == own / "gone"  # the folder of a link is made when a mask is saved


def test_the_default_of_extra_model_paths_is_saved_to(own, monkeypatch):
    (own / "paths.yaml").write_text("mine:\n  base_path: .\n  is_default: true\n  concept_masks: users\n")
    monkeypatch.setattr(extra_paths, "config_files", lambda: [own / "none.yaml", own / "paths.yaml"])
    monkeypatch.setattr(folders, "default_folder", extra_paths.default_folder.__wrapped__)
    assert folders.wanted_path("sks").parent == (own / "users").resolve()
    assert folder_paths.get_folder_paths(folders.FOLDER)[0] == str(own / "users")


def test_a_mask_is_kept_elsewhere_when_its_name_or_folder_fails(own, tmp_path, monkeypatch):
    mask = ConceptMask({"a.weight": torch.tensor([1])}, {"a.weight": (2, 2)}, identifier="sks", class_word="cat")
    assert keep_mask(mask, "first", False) == ("first.safetensors", "")
    assert keep_mask(mask, "first", False) == ("first-2.safetensors", "")
    assert keep_mask(mask, "first", True) == ("first.safetensors", "")
    name, trouble = keep_mask(mask, "x" * 300, False)
    assert name == "sks-cat.safetensors" and "at most 255" in trouble and "kept as sks-cat" in trouble
    monkeypatch.setattr(folder_paths, "models_dir", str(own / "users" / "a.png" / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, folders.FOLDER, ([], set()))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    name, trouble = keep_mask(mask, "second", False)
    assert name == str(tmp_path / "output" / "sks-cat.safetensors") and "is not a folder" in trouble
    assert load_mask(name).count == 1
