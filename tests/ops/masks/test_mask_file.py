"""The concept mask file: round trips, the same bytes, and refusals that say what is wrong."""

from __future__ import annotations

import base64
import json
import tempfile
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cones_ops import ConceptMask, ConesError, empty, load_mask, read_mask_metadata, save_mask, save_mask_anyhow
from cones_ops.masks.concept_mask import restrict, same_neurons, union
from cones_ops.masks.rice_coding import CodedIndices, decode_index, encode_index

SHAPES = {"b.to_v.weight": (2, 3), "a.to_k.weight": (4, 1)}
MASK = ConceptMask(
    {"a.to_k.weight": torch.tensor([0, 3]), "b.to_v.weight": torch.tensor([5])},
    SHAPES,
    identifier="sks",
    class_word="star",
    where="own tokens",
    fingerprint="abc",
    provenance={"method": "learned", "seed": "7", "date": "2026-01-31"},
)


def rewritten(path: Path, tensors: dict | None = None, **meta: str | None) -> Path:
    """A saved MASK with some tensors and metadata replaced (None removes)."""
    save_mask(MASK, path)
    all_meta = {k: v for k, v in (read_mask_metadata(path) | meta).items() if v is not None}
    save_file(load_file(path) if tensors is None else tensors, path, all_meta)
    return path


def version_1(path: Path, tensors: dict, **meta: str) -> Path:
    """A file as version 1 wrote it: int32 positions, no checksum."""
    told = {
        "modelspec.title": "sks star",
        "cones.format_version": "1",
        "cones.shapes": '{"a.to_k.weight": [4, 1], "b.to_v.weight": [2, 3]}',
        "cones.identifier": "sks",
        "cones.class_word": "star",
        "cones.where": "own tokens",
        "cones.fingerprint": "abc",
        "cones.count": "3",
        "cones.size": "10",
        "cones.search.method": "learned",
        "cones.search.seed": "7",
        "cones.search.date": "2026-01-31",
    }
    save_file(tensors, path, told | meta)
    return path


def int32(*positions: int) -> torch.Tensor:
    return torch.tensor(positions, dtype=torch.int32)


def coded(positions: list[int], size: int) -> torch.Tensor:
    return encode_index(torch.tensor(positions), size)


def fields(mask: ConceptMask) -> tuple:
    return mask.shapes, mask.identifier, mask.class_word, mask.where, mask.fingerprint, mask.provenance


def test_what_is_in_the_file(tmp_path: Path) -> None:
    path = save_mask(MASK, tmp_path / "sub" / "sks.safetensors")
    tensors, meta = load_file(path), read_mask_metadata(path)
    assert {k: (t.dtype, t.tolist()) for k, t in tensors.items()} == {
        # one block (31), 2 neurons; width 0 (00000), the gaps 0 and 2 in unary (1 001)
        "a.to_k.index": (torch.uint8, [31, 2, 0b00100000, 0b1]),
        # one block, 1 neuron; width 1 (10000), low bit of the gap 5 (1), its half in unary (001)
        "b.to_v.index": (torch.uint8, [31, 1, 0b00100001, 0b1]),
    }
    crc = b"a.to_k.index" + bytes([31, 2, 0b00100000, 1]) + b"b.to_v.index" + bytes([31, 1, 0b00100001, 1])
    kinds = {"a.to_k.index": ["torch.uint8", 4], "b.to_v.index": ["torch.uint8", 4]}
    checksum = meta.pop("cones.crc32")
    assert checksum == f"{zlib.crc32(json.dumps([meta, kinds], sort_keys=True).encode() + crc):08x}"
    assert meta == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "unknown/concept-mask",
        "modelspec.implementation": "cones_ops",
        "modelspec.title": "sks star",
        "modelspec.resolution": "unknown",
        "modelspec.trigger_phrase": "sks star",
        "modelspec.description": "Concept neurons of 'sks star': 3 of 10 (30.000%).",
        "modelspec.date": "2026-01-31",
        "ss_output_name": "sks star",
        "ss_tag_frequency": '{"concept": {"sks star": 1}}',
        "cones.format_version": "3",
        "cones.shapes": '{"a.to_k.weight":[4,1],"b.to_v.weight":[2,3]}',
        "cones.identifier": "sks",
        "cones.class_word": "star",
        "cones.where": "own tokens",
        "cones.fingerprint": "abc",
        "cones.count": "3",
        "cones.size": "10",
        "cones.sketch": "",
        "cones.search.method": "learned",
        "cones.search.seed": "7",
        "cones.search.date": "2026-01-31",
    }
    assert [p.name for p in path.parent.iterdir()] == ["sks.safetensors"]  # no temporary file is left


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 3)), words, words, st.dictionaries(words, words, max_size=3))
def test_round_trip(a: set[int], b: set[int], identifier: str, class_word: str, told: dict[str, str]) -> None:
    index = {"b.to_v.weight": torch.tensor(sorted(a)).long(), "a.to_k.weight": torch.tensor(sorted(b)).long()}
    mask = ConceptMask(index, SHAPES, identifier, class_word, provenance=told)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "1.safetensors"), Path(folder, "2.safetensors")
        again = load_mask(save_mask(mask, first))
        assert same_neurons(again, mask) and fields(again) == fields(mask)
        assert save_mask(again, second).read_bytes() == first.read_bytes()


def test_version_1_is_read_and_saved_as_version_3(tmp_path: Path) -> None:
    old = version_1(tmp_path / "old.safetensors", {"a.to_k.index": int32(0, 3), "b.to_v.index": int32(5)})
    again = load_mask(old)
    assert same_neurons(again, MASK) and fields(again) == fields(MASK)
    new, same = save_mask(again, tmp_path / "new.safetensors"), save_mask(MASK, tmp_path / "same.safetensors")
    assert new.read_bytes() == same.read_bytes() and read_mask_metadata(new)["cones.format_version"] == "3"


def version_2(path: Path, crc32: str = "a83995fc") -> Path:
    """MASK as version 2 wrote it, with a checksum over the indices alone, worked out by version 2."""
    version_1(path, {}, **{"cones.format_version": "2", "cones.crc32": crc32})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"a.to_k.index": coded([0, 3], 4), "b.to_v.index": coded([5], 6)}, path, metadata)
    return path


def test_version_2_is_read_with_its_own_checksum(tmp_path: Path) -> None:
    again = load_mask(version_2(tmp_path / "m.safetensors"))
    assert same_neurons(again, MASK) and fields(again) == fields(MASK)
    with pytest.raises(ConesError, match="not as it was saved"):
        load_mask(version_2(tmp_path / "m.safetensors", "00000000"))


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


def test_one_parameter_is_read_alone(tmp_path: Path) -> None:
    with safe_open(save_mask(MASK, tmp_path / "m.safetensors"), framework="pt") as file:
        assert decode_index(file.get_tensor("b.to_v.index"), 6).tolist() == [5]


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


def test_empty_mask(tmp_path: Path) -> None:
    again = load_mask(save_mask(empty(SHAPES, identifier="sks"), tmp_path / "e.safetensors"))
    assert again.count == 0 and again.size == 10


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


def test_metadata_of_other_programs_is_left_alone(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "m.safetensors", ssmd_rating="5")
    assert load_mask(path).count == 3 and read_mask_metadata(path)["ssmd_rating"] == "5"


def test_thumbnail_and_keys_for_programs_that_list_models(tmp_path: Path) -> None:
    told = {**MASK.provenance, "base_model_version": "sd_v1"}
    picture = b"\xff\xd8 a JPEG"
    path = save_mask(replace(MASK, provenance=told), tmp_path / "sks.safetensors", cover=b"PNG", thumbnail=picture)
    meta = read_mask_metadata(path)
    assert base64.b64decode(json.loads(meta["ssmd_cover_images"])[0]) == picture
    assert meta["modelspec.thumbnail"] == f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    assert (meta["ss_output_name"], meta["ss_base_model_version"]) == ("sks star", "sd_v1")
    assert json.loads(meta["ss_tag_frequency"]) == {"concept": {"sks star": 1}}
    assert path.with_suffix(".png").read_bytes() == b"PNG" and same_neurons(load_mask(path), MASK)
    with pytest.raises(ConesError, match="thumbnail of 100001 bytes"):
        save_mask(MASK, tmp_path / "big.safetensors", thumbnail=bytes(100_001))
    assert not (tmp_path / "big.safetensors").exists()


def test_a_loaded_mask_stays_coded_and_needs_its_file_no_longer(tmp_path: Path) -> None:
    shapes = {"a.to_k.weight": (300, 1000), "b.to_v.weight": (4, 4)}
    index = (torch.rand(300_000, generator=torch.Generator().manual_seed(0)) < 0.01).nonzero().flatten()
    mask = ConceptMask({"a.to_k.weight": index}, shapes, "sks", "star")
    path = save_mask(mask, tmp_path / "one.safetensors")
    found = load_mask(path)
    path.unlink()
    save_mask(MASK, path)
    assert (
        isinstance(found.index, CodedIndices)
        and sum(one.nbytes for one in found.index.coded.values()) < len(index) * 1.1
    )
    assert found.count == len(index) and found.names == ["a.to_k.weight"] and same_neurons(found, mask)
    assert same_neurons(union(found, mask), mask) and replace(found, where="own tokens").index is found.index
    assert restrict(found, ["b.to_v.weight"]).count == 0


def test_indices_coded_for_other_shapes_are_refused() -> None:
    coded = CodedIndices({"a.to_k.weight": encode_index(torch.tensor([1, 3]), 4)}, {"a.to_k.weight": 4})
    with pytest.raises(ConesError, match=r"other shapes than given: a\.to_k\.weight"):
        ConceptMask(coded, {"a.to_k.weight": (2, 3)})
    empty_too = CodedIndices(
        {n: encode_index(torch.tensor(i).long(), 4) for n, i in (("a", []), ("b", [2]))}, {"a": 4, "b": 4}
    )
    assert ConceptMask(empty_too, {"a": (4, 1), "b": (2, 2)}).names == ["b"]
