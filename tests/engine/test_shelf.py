"""`cones shelf`: what it lists, what it reads again, copies, and masks of other models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cones_ops import cli
from cones_ops.engine import shelf
from cones_ops.errors import ConesError
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.fingerprint import base_of
from cones_ops.masks.mask_file import save_mask

NAME = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
WEIGHT = torch.arange(12.0).reshape(3, 4)
MASK = ConceptMask(
    {NAME: torch.tensor([1, 5])}, {NAME: (3, 4)}, "sks", "dog", "own tokens", *base_of({NAME: WEIGHT})[:1]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two masks, a copy of one below, a mask of another base, and a file that is no mask."""
    (tmp_path / "below").mkdir()
    save_mask(MASK, tmp_path / "a.safetensors")
    (tmp_path / "below" / "copy.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    dated = replace(MASK, identifier="ktn", class_word="cat", where="everywhere", provenance={"date": "2031-02-03T04"})
    save_mask(dated, tmp_path / "b.safetensors")
    save_mask(replace(MASK, fingerprint="0" * 64), tmp_path / "c.safetensors")
    save_file({"x": WEIGHT}, tmp_path / "lora.safetensors")
    return tmp_path


def listed(folder: Path, capsys: Any, *options: str) -> list[str]:
    assert cli.main(["shelf", str(folder), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[0] for line in lines[:-1] if line and not line.startswith("file ")]


def test_lists_and_narrows(folder: Path, capsys: Any) -> None:
    copy = os.path.join("below", "copy.safetensors")
    assert listed(folder, capsys) == ["a.safetensors", "b.safetensors", copy, "c.safetensors", "lora.safetensors"]
    assert listed(folder, capsys, "--word", "CAT") == ["b.safetensors"]
    assert listed(folder, capsys, "--where", "everywhere", "--since", "2031-01-01") == ["b.safetensors"]
    assert listed(folder, capsys, "--since", "2031-02-04") == []
    assert listed(folder, capsys, "--duplicates") == ["a.safetensors", copy]
    save_file({f"model.diffusion_model.{NAME}": WEIGHT.bfloat16().float()}, folder / "model.st")
    (folder / "model.st").rename(folder.parent / "model.safetensors")
    model = str(folder.parent / "model.safetensors")
    assert listed(folder, capsys, "--base", model) == ["a.safetensors", "b.safetensors", copy]
    assert listed(folder, capsys, "--not-for", model) == ["c.safetensors", "lora.safetensors"]
    assert cli.main(["shelf", str(folder / "none")]) == 2


def test_only_changed_files_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    entry = shelf._entry

    def counted(folder: Path, path: str, *state: int) -> shelf.ShelfEntry:
        read.append(path)
        return entry(folder, path, *state)

    monkeypatch.setattr(shelf, "_entry", counted)
    first = shelf.read_shelf(folder)
    assert len(read) == 5 and shelf.read_shelf(folder) == first and len(read) == 5
    assert (first[0].neurons, first[0].density) == (2, 2 / 12)
    assert "not a concept mask" in first[-1].error
    save_mask(replace(MASK, class_word="fox"), folder / "a.safetensors", "overwrite")
    (folder / "b.safetensors").unlink()
    second = shelf.read_shelf(folder)
    assert read[5:] == ["a.safetensors"] and len(second) == 4 and second[0].class_word == "fox"
    (folder / shelf.FILE).write_bytes(b"no database, and much longer than a hundred bytes" * 9)
    assert shelf.read_shelf(folder) == second


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConesError, match="no such folder"):
        shelf.read_shelf(tmp_path / "none")
