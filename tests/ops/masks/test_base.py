"""A base is distinguished from other bases, and recognised in other storage formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cones_ops import ConceptMask, ConesError, union
from cones_ops.masks.base import check_base
from cones_ops.masks.fingerprint import Base, base_of, sketch, stored_otherwise

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = {f"{n}.weight": 0.03 * torch.randn(40, 50, generator=GENERATOR) for n in "abc"}


def int8(weight: Tensor) -> Tensor:
    """Rounded to 127 steps a row, and back."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


def four_bits(weight: Tensor) -> Tensor:
    """Rounded to 15 steps in blocks of ten, and back."""
    blocks = weight.reshape(-1, 10)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 7
    return ((blocks / scale).round() * scale).reshape(weight.shape)


STORED = {
    "fp16": (Tensor.half, False),
    "bf16": (Tensor.bfloat16, False),
    "bf16 read as fp32": (lambda weight: weight.bfloat16().float(), False),
    "fp8 read as fp16": (lambda weight: weight.to(torch.float8_e4m3fn).half(), False),
    "fp8 with a scale": (lambda weight: (weight * 100).to(torch.float8_e4m3fn).float() / 100, True),
    "int8": (int8, True),
    "4 bits": (four_bits, True),
}


@pytest.mark.parametrize("kind", STORED)
def test_the_same_base_in_another_format_is_recognised_both_ways(kind: str) -> None:
    store, quantised = STORED[kind]
    base, other = base_of(WEIGHTS), base_of({name: store(weight) for name, weight in WEIGHTS.items()}, quantised)
    for found, applied in ((base, other), (other, base)):
        mask = ConceptMask({}, {"a": (1,)}, "sks", "star", fingerprint=found.fingerprint, sketch=found.sketch)
        note = "" if kind == "fp16" else 'the concept mask "sks star" was found on the same base weights, stored in'
        assert check_base(mask, applied).startswith(note) and bool(check_base(mask, applied)) == (kind != "fp16")


@pytest.mark.parametrize("kind", STORED)
def test_another_base_is_refused_in_any_format(kind: str) -> None:
    """Entries of another seed, and a fine-tune that moved entries by 1 % of their size (seen at 11 and 8 bits only)."""
    store, quantised = STORED[kind]
    generator = torch.Generator().manual_seed(1)
    noise = {name: 0.03 * torch.randn(40, 50, generator=generator) for name in WEIGHTS}
    tuned = {name: weight + 0.01 * noise[name] for name, weight in WEIGHTS.items()}
    for other in [noise] if "8" in kind or "4" in kind else [noise, tuned]:
        stored = sketch({name: store(weight) for name, weight in other.items()}, quantised)
        assert not stored_otherwise(sketch(WEIGHTS), stored)


def test_messages_and_remedies() -> None:
    base = base_of(WEIGHTS)
    mask = ConceptMask({}, {"a": (1,)}, "sks", "star", fingerprint="1" * 64, sketch="")
    with pytest.raises(ConesError, match=r"on base weights 1111111111111111 but these are \w{16}; .*here: load it"):
        check_base(mask, base, remedy="load it")
    assert check_base(mask, base, anyway=True).endswith("its neurons mean something else here; applied anyway")
    assert check_base(replace(mask, fingerprint=""), base) == "" and check_base(mask, Base("1" * 64, "")) == ""


@pytest.mark.parametrize("damaged", ["", "11:", "11:!", "x:AAAA", "11:AAA", "8:AHw="])
def test_a_damaged_sketch_recognises_nothing(damaged: str) -> None:
    assert not stored_otherwise(damaged, sketch(WEIGHTS)) and not stored_otherwise(sketch(WEIGHTS), damaged)
    assert not stored_otherwise(damaged, damaged)


def test_masks_of_one_base_in_two_formats_can_be_combined() -> None:
    base = base_of(WEIGHTS)
    coarse = base_of({name: weight.bfloat16() for name, weight in WEIGHTS.items()})
    first, second, other = (
        ConceptMask({}, {"a": (1,)}, "sks", "star", fingerprint=b.fingerprint, sketch=b.sketch)
        for b in (base, coarse, base_of({name: weight + 1 for name, weight in WEIGHTS.items()}))
    )
    assert (union(first, second).fingerprint, union(first, second).sketch) == base
    with pytest.raises(ConesError, match="different base weights"):
        union(first, other)
