"""Mask files that are damaged, hostile or no mask files: refused by name, at once, in little memory."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.masks import MASK, coded, int32, rewritten, version_1

from cones_ops import ConceptMask, ConesError, load_mask, save_mask


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def unnoticed(folder: Path, stride: int) -> list[int]:
    """The bits with which, flipped one at a time, a file of a mask with everything in it still loads."""
    mask = replace(MASK, sketch="11:AAA=", provenance={"method": "learned", "date": "2026-01-31"})
    path = save_mask(mask, folder / "m.safetensors", thumbnail=b"JPEG")
    loaded = []
    for bit in range(0, 8 * path.stat().st_size, stride):
        flipped(path, bit)
        try:
            load_mask(path)
            loaded.append(bit)
        except ConesError as error:
            assert "m.safetensors" in str(error)
        flipped(path, bit)
    load_mask(path)
    return loaded


def test_a_flipped_bit_is_noticed_anywhere(tmp_path: Path) -> None:
    assert not unnoticed(tmp_path, 97)


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    assert not unnoticed(tmp_path, 1)


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (f'{{"a": {DEEP}', "not JSON"),
        ('{"a.to_k.weight": [' + "9" * 5000 + "]}", "not JSON"),
        ('{"a.to_k.weight": [4, ' + str(2**200) + "]}", "positive sides for a.to_k.weight"),
        ('{"a.to_k.weight": [65536, 65536, 2]}', "positive sides for a.to_k.weight"),
        ('{"a.to_k.weight": [' + ", ".join("1" * 10_000) + "]}", "positive sides for a.to_k.weight"),
        ('{"a\\u001b[2J": [4, 1]}', r"names that no weight has: 'a\\x1b\[2J'"),
        ('{"\\ud800": [4, 1]}', r"names that no weight has: '\\ud800'"),
        ("{" + ", ".join(f'"{k}": [1]' for k in range(20_001)) + "}", "20001 weights"),
    ],
)
def test_hostile_shapes_are_refused_at_once(tmp_path: Path, shapes: str, message: str) -> None:
    path = rewritten(tmp_path / "m.safetensors", **{"cones.shapes": shapes})
    began = time.monotonic()
    with pytest.raises(ConesError, match=message) as caught:
        load_mask(path)
    assert time.monotonic() - began < 2 and len(str(caught.value)) < 2000


@pytest.mark.slow
def test_a_dense_index_is_read_in_little_memory(tmp_path: Path) -> None:
    """16 million neurons in 16 million entries are 2 MB coded; decoded they would be 128 MB."""
    size = 2**24
    mask = ConceptMask({"a.to_k.weight": torch.arange(size)}, {"a.to_k.weight": (size,)})
    path = save_mask(mask, tmp_path / "m.safetensors")
    assert 2_097_152 < path.stat().st_size < 2_099_500
    tracemalloc.start()
    again = load_mask(path)
    assert again.count == again.count_in("a.to_k.weight") == size
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("place", range(8))  # 4 bytes of each of two indices
def test_a_changed_bit_of_an_index_is_noticed(tmp_path: Path, place: int) -> None:
    path = save_mask(MASK, tmp_path / "m.safetensors")
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) == begin + 8
    for bit in range(8):
        changed = bytearray(whole)
        changed[begin + place] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(ConesError, match=r"^m\.safetensors: "):
            load_mask(path)


def test_refuses_other_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConesError, match=r"saved as \.safetensors"):
        save_mask(MASK, tmp_path / "m.pt")
    with pytest.raises(ConesError, match="no such file"):
        load_mask(tmp_path / "none.safetensors")
    for junk in (b"", b"not a safetensors file", (2**40).to_bytes(8, "little") + b"{}"):
        (tmp_path / "junk.safetensors").write_bytes(junk)
        with pytest.raises(ConesError, match=r"junk\.safetensors: not a readable safetensors file"):
            load_mask(tmp_path / "junk.safetensors")
    save_file({"lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ConesError, match="not a concept mask"):
        load_mask(tmp_path / "lora.safetensors")
    whole = save_mask(MASK, tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ConesError, match="not a readable safetensors file"):
        load_mask(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cones.format_version", "4", "format version 4, this program reads 1, 2, 3"),
        ("cones.format_version", "1", "unknown metadata cones.crc32"),
        ("cones.crc32", None, "metadata without cones.crc32"),
        ("cones.crc32", "00000000", "not as it was saved"),
        ("cones.shapes", None, "metadata without cones.shapes"),
        ("cones.shapes", "{", "not JSON"),
        ("cones.shapes", "[]", "does not map names"),
        ("cones.shapes", '{"a.to_k.weight": [4, -1]}', "positive sides for a.to_k.weight"),
        ("cones.shapes", '{"a.to_k.weight": [4, true]}', "positive sides for a.to_k.weight"),
        ("cones.shapes", '{"a.to_k.weight": [4, 1]}', "belong to no searched weight: b.to_v.index"),
        ("cones.shapes", '{"a.to_k.weight": [2], "b.to_v.weight": [6]}', "the index goes past the 2 entries"),
        ("cones.where", "nowhere", "where='nowhere'"),
        ("cones.count", "4", "says count 4 but has 3"),
        ("cones.size", "many", "says size many but has 10"),
        ("cones.levels", "4", "unknown metadata cones.levels"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, key: str, value: str | None, message: str) -> None:
    with pytest.raises(ConesError, match=message) as caught:
        load_mask(rewritten(tmp_path / "m.safetensors", **{key: value}))
    assert str(caught.value).startswith("m.safetensors: ")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.to_k.index": coded([0, 4], 5)}, "wrong index in a.to_k.weight. First: the index goes past the 4 entries"),
        ({"a.to_k.index": int32(0, 3)}, "torch.int32 .*, expected bytes in a row"),
        ({"a.to_k.index": torch.ones(2, 2, dtype=torch.uint8)}, "expected bytes in a row"),
        ({"a.to_k.index": coded([0, 3], 4), "b.to_v.index": coded([4], 6)}, "not as it was saved"),
        ({"b.to_v.index": coded([0, 2, 3], 6)}, "not as it was saved"),
        ({f"x{i}": torch.ones(1) for i in range(7)}, r"x0, x1, x2, x3, x4, \.\.\. \(7 in all\)"),
    ],
)
def test_bad_tensors_are_named(tmp_path: Path, tensors: dict, message: str) -> None:
    with pytest.raises(ConesError, match=message):
        load_mask(rewritten(tmp_path / "m.safetensors", tensors))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (int32(3, 0), "a.to_k.weight: the index is not sorted"),
        (int32(0, 0), "not sorted and unique"),
        (int32(0, 4), "index from 0 to 4 but the weight has 4 entries"),
        (int32(-1), "index from -1"),
        (int32(0), "says count 3 but has 1"),
        (torch.tensor([0, 3]), "of type I64, expected U8"),
        (torch.ones(2, 2, dtype=torch.int32), "list of whole numbers"),
    ],
)
def test_bad_tensors_of_version_1_are_named(tmp_path: Path, index: torch.Tensor, message: str) -> None:
    with pytest.raises(ConesError, match=message):
        load_mask(version_1(tmp_path / "m.safetensors", {"a.to_k.index": index}))
