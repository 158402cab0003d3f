"""Which weights are searched, and the fingerprint of the base."""

from __future__ import annotations

import pytest
import torch

from cones_ops import ConesError, fingerprint, select_targets

NAMES = {
    f"b.{i}.transformer_blocks.0.{attn}.to_{p}{out}.weight": (4, 4)
    for i in (1, 0)
    for attn in ("attn1", "attn2")
    for p, out in (("q", ""), ("k", ""), ("v", ""), ("out", ".0"))
}


@pytest.mark.parametrize(
    ("choice", "parts"),
    [
        ("text K+V", ["attn2.to_k", "attn2.to_v"]),
        ("text V", ["attn2.to_v"]),
        ("text K", ["attn2.to_k"]),
        ("text + self K+V", ["attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v"]),
    ],
)
def test_choices(choice: str, parts: list[str]) -> None:
    assert select_targets(NAMES, choice) == [f"b.{i}.transformer_blocks.0.{p}.weight" for i in (0, 1) for p in parts]


def test_refusals() -> None:
    with pytest.raises(ConesError, match=r"no text K projections .* 1 parameters such as x\.qkv\.weight"):
        select_targets({"x.qkv.weight": (3, 3)}, "text K")
    with pytest.raises(ConesError, match="'all' are not known; choose one of text K"):
        select_targets(NAMES, "all")
    with pytest.raises(ConesError, match="must be matrices"):
        select_targets({"attn2.to_k.weight": (3, 3, 1, 1)})
    assert select_targets({"attn2.to_k.weight": (3, 3), "xattn2.to_k.weight": (3, 3)}) == ["attn2.to_k.weight"]


def test_fingerprint_is_that_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"b": torch.randn(100, 100, generator=generator), "a": torch.randn(3, generator=generator)}
    mark = fingerprint(weights)
    assert len(mark) == 64 and mark == fingerprint(dict(reversed(weights.items())))
    assert mark == fingerprint({name: w.half() for name, w in weights.items()})
    assert mark == fingerprint({name: w.half().float() for name, w in weights.items()})
    assert mark != fingerprint(weights | {"a": weights["a"] + 0.01})
    assert mark != fingerprint(weights | {"b": weights["b"].reshape(50, 200)})
    assert mark != fingerprint({"c": weights["b"], "a": weights["a"]})
