"""Saving a mask: names that are taken, covers, and results that are never lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.masks import MASK, SHAPES

from cones_ops import ConesError, empty, load_mask, save_mask, save_mask_anyhow


def test_never_overwrites_unless_asked(tmp_path: Path) -> None:
    path = save_mask(MASK, tmp_path / "m.safetensors")
    with pytest.raises(ConesError, match=r"m\.safetensors exists already"):
        save_mask(empty(SHAPES), path)
    assert load_mask(path).count == 3
    save_mask(empty(SHAPES), path, "overwrite")
    assert load_mask(path).count == 0


def test_cover_lies_beside_the_mask(tmp_path: Path) -> None:
    save_mask(MASK, tmp_path / "m.safetensors", cover=b"png")
    assert (tmp_path / "m.png").read_bytes() == b"png"
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(ConesError, match=r"m\.png exists already"):
        save_mask(MASK, tmp_path / "m.safetensors", cover=b"other")


def test_a_cover_that_is_taken_moves_the_mask_to_the_next_number(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"mine")
    assert save_mask(MASK, tmp_path / "m.safetensors", "number", cover=b"new") == tmp_path / "m-2.safetensors"
    assert (tmp_path / "m.png").read_bytes() == b"mine" and (tmp_path / "m-2.png").read_bytes() == b"new"
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("thumbnail", [b"JPEG", None])
def test_overwriting_without_a_cover_removes_the_old_concepts_cover_only(tmp_path: Path, thumbnail: bytes) -> None:
    """A .png beside a mask that was saved without a thumbnail may be the user's own picture."""
    path = save_mask(MASK, tmp_path / "m.safetensors", thumbnail=thumbnail)
    (tmp_path / "m.png").write_bytes(b"png")
    save_mask(MASK, path, "overwrite")
    assert (tmp_path / "m.png").exists() == (thumbnail is None)


def test_a_cover_that_cannot_be_written_does_not_lose_the_mask(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.png").mkdir()
    path = save_mask(MASK, tmp_path / "m.safetensors", "overwrite", cover=b"png")
    assert load_mask(path).count == 3 and "m.safetensors is saved, but its cover is not" in caplog.text


def test_a_result_is_kept_under_another_name_where_its_own_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    taken = save_mask(MASK, tmp_path / "m.safetensors")
    assert save_mask_anyhow(MASK, tmp_path / "n.safetensors") == (tmp_path / "n.safetensors", "")
    path, trouble = save_mask_anyhow(MASK, taken)
    assert path == tmp_path / "m-2.safetensors" and trouble.endswith(f"The mask is kept as {path}")
    assert save_mask_anyhow(MASK, tmp_path / "m.pt")[0] == tmp_path / "m-3.safetensors"
    assert save_mask_anyhow(MASK, tmp_path / ("x" * 250 + ".safetensors"))[0] == tmp_path / "sks-star.safetensors"
    path, trouble = save_mask_anyhow(MASK, taken / "folder" / "m.safetensors")
    assert path.resolve() == tmp_path / "here" / "sks-star.safetensors" and "cannot be written" in trouble
    assert load_mask(path).count == 3


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_mask(MASK, tmp_path / "m.safetensors")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConesError, match=r"m\.safetensors: cannot be written \(disk full\)"):
        save_mask(empty(SHAPES), path, "overwrite")
    assert load_mask(path).count == 3 and list(tmp_path.iterdir()) == [path]
