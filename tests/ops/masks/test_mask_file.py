"""The concept mask file: what is in it, round trips, the same bytes, earlier versions."""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from support.masks import MASK, SHAPES, fields, int32, rewritten, version_1, version_2

from cones_ops import ConceptMask, ConesError, empty, load_mask, read_mask_metadata, save_mask
from cones_ops.masks.concept_mask import restrict, same_neurons, union
from cones_ops.masks.rice_coding import CodedIndices, decode_index, encode_index


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


def test_version_2_is_read_with_its_own_checksum(tmp_path: Path) -> None:
    again = load_mask(version_2(tmp_path / "m.safetensors"))
    assert same_neurons(again, MASK) and fields(again) == fields(MASK)
    with pytest.raises(ConesError, match="not as it was saved"):
        load_mask(version_2(tmp_path / "m.safetensors", "00000000"))


def test_one_parameter_is_read_alone(tmp_path: Path) -> None:
    with safe_open(save_mask(MASK, tmp_path / "m.safetensors"), framework="pt") as file:
        assert decode_index(file.get_tensor("b.to_v.index"), 6).tolist() == [5]


def test_empty_mask(tmp_path: Path) -> None:
    again = load_mask(save_mask(empty(SHAPES, identifier="sks"), tmp_path / "e.safetensors"))
    assert again.count == 0 and again.size == 10


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


def test_a_file_says_by_which_rule_its_own_tokens_were_found(tmp_path: Path) -> None:
    plain = ConceptMask({}, {"a.weight": (2, 2)}, "sks", "star", "own tokens")
    owning = replace(plain, own_words="phrase")
    assert "cones.own_words" not in read_mask_metadata(save_mask(plain, tmp_path / "plain.safetensors"))
    file = save_mask(owning, tmp_path / "phrase.safetensors")
    assert read_mask_metadata(file)["cones.own_words"] == "phrase"
    assert load_mask(file).own_words == "phrase"
    assert load_mask(tmp_path / "plain.safetensors").own_words == "identifier + class word"
    with pytest.raises(ConesError, match=r"own identifier \+ class word and phrase"):
        union(plain, owning)
