"""Which weights are searched, and the fingerprint of the base."""

from __future__ import annotations

import pytest
import torch

from cones_ops import ConesError, select_targets
from cones_ops.masks.fingerprint import fingerprint
from cones_ops.models.targets import own_tokens_at, part_shapes
from cones_ops.models.weight_names import layer_and_rows, weight_and_rows

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
    with pytest.raises(ConesError, match=r"none of the model's 1 parameters .* such as x\.qkv\.weight, but"):
        select_targets({"x.qkv.weight": (3, 3)}, "text K")
    with pytest.raises(ConesError, match="'all' are not known; choose one of text K"):
        select_targets(NAMES, "all")
    with pytest.raises(ConesError, match="should be a K or V projection, a matrix"):
        select_targets({"attn2.to_k.weight": (3, 3, 1, 1)})
    assert select_targets({"attn2.to_k.weight": (3, 3), "xattn2.to_k.weight": (3, 3)}) == ["attn2.to_k.weight"]


FLUX = {
    "double_blocks.0.img_attn.qkv.weight": (12, 4),
    "double_blocks.0.txt_attn.qkv.weight": (12, 4),
    "double_blocks.0.txt_attn.proj.weight": (4, 4),
    "single_blocks.0.linear1.weight": (28, 4),  # Q, K, V of 4 rows each, then 16 of the feed-forward's
}
GROUPED = {"layers.0.attention.qkv.weight": (16, 8), "layers.0.attention.out.weight": (8, 8)}  # Q 8, K 4, V 4


def test_parts_of_fused_weights() -> None:
    text = "double_blocks.0.txt_attn.qkv.weight"
    assert select_targets(FLUX) == [f"{text}[4:8]", f"{text}[8:12]"]
    assert select_targets(FLUX, "text V") == [f"{text}[8:12]"]
    every = select_targets(FLUX, "text + self K+V")
    assert "single_blocks.0.linear1.weight[8:12]" in every and len(every) == 6
    assert part_shapes(GROUPED) == {
        "layers.0.attention.qkv.weight[8:12]": (4, 8),
        "layers.0.attention.qkv.weight[12:16]": (4, 8),
    }
    assert select_targets(GROUPED, "text K") == ["layers.0.attention.qkv.weight[8:12]"]  # no layer reads text alone
    assert weight_and_rows(f"{text}[4:8]") == (text, slice(4, 8))
    assert layer_and_rows("a.attn2.to_k.weight") == ("a.attn2.to_k", slice(None))
    with pytest.raises(ConesError, match="13 rows cannot hold 0 of Q and as many of K as of V"):
        select_targets({"blocks.0.cross_attn.kv_linear.weight": (13, 4)})


def test_where_the_text_stands() -> None:
    assert own_tokens_at("a.attn2.to_k.weight") == "start"
    assert own_tokens_at("double_blocks.0.txt_attn.qkv.weight[4:8]") == "start"
    assert own_tokens_at("double_layers.0.attn.w1k.weight") == "end"
    for name in ("a.attn1.to_k.weight", "single_blocks.0.linear1.weight[4:8]", "b.attn1.to_k_t.weight", "a.weight"):
        assert own_tokens_at(name) is None


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
