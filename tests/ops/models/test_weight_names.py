"""Where weights lie, from their names: UNets, transformers, fused weights."""

from __future__ import annotations

import time

import pytest

from cones_ops.models.weight_names import layers, searched_weights, short_for, weight_and_rows, words_for

UNET = "output_blocks.{}.1.transformer_blocks.{}.attn2.to_{}.weight"


def test_a_unet_is_ordered_by_depth() -> None:
    names = [UNET.format(10, 0, "v"), UNET.format(3, 1, "k"), UNET.format(3, 0, "v"), UNET.format(3, 0, "k")]
    names += ["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    names += ["input_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"]
    weights = searched_weights(names)
    assert [weight.block for weight in weights[:3]] == ["input_blocks.11", "middle_block", "output_blocks.3"]
    assert [(p.layer, p.projection) for p in weights[2:]] == [
        ("output_blocks.3.1.transformer_blocks.0", "K"),
        ("output_blocks.3.1.transformer_blocks.0", "V"),
        ("output_blocks.3.1.transformer_blocks.1", "K"),
        ("output_blocks.10.1.transformer_blocks.0", "V"),
    ]
    assert len(layers(weights)) == 5


@pytest.mark.parametrize(
    ("name", "part", "row"),
    [
        ("middle_block.1.transformer_blocks.0.attn1.to_k.weight", "K", "picture K"),
        ("middle_block.1.transformer_blocks.0.attn2.to_v.weight", "V", "V"),
        ("transformer_blocks.5.attn.add_k_proj.weight", "K", "K"),
        ("transformer_blocks.5.attn.to_v.weight", "V", "V"),  # of the picture beside add_v_proj only
        ("blocks.3.cross_attn.k.weight", "K", "K"),
        ("blocks.3.cross_attn.v_proj.weight", "V", "V"),
        ("blocks.3.self_attn.v.weight", "V", "picture V"),
        ("double_layers.0.attn.w1k.weight", "K", "K"),
        ("layers.2.attention.qkv.weight[32:64]", "K", "K"),  # as many rows of Q before it
        ("layers.2.attention.qkv.weight[64:96]", "V", "V"),
        ("blocks.1.cross_attn.kv_linear.weight[0:8]", "K", "K"),
        ("double_blocks.1.img_attn.qkv.weight[64:96]", "V", "picture V"),
    ],
)
def test_k_or_v_text_or_picture(name: str, part: str, row: str) -> None:
    (weight,) = searched_weights([name])
    assert (weight.projection, weight.row) == (part, row)


def test_of_two_parts_of_one_weight_the_first_is_k() -> None:
    """Grouped queries: K has fewer rows than Q."""
    weights = searched_weights(["layers.0.attention.qkv.weight[80:96]", "layers.0.attention.qkv.weight[64:80]"])
    assert [(weight.name[-7:], weight.projection) for weight in weights] == [("[64:80]", "K"), ("[80:96]", "V")]
    assert weight_and_rows(weights[0].name) == ("layers.0.attention.qkv.weight", slice(64, 80))


@pytest.mark.parametrize(
    ("block", "words", "short"),
    [
        ("output_blocks.3", "output block 3", "out 3"),
        ("middle_block", "middle block", "mid"),
        ("double_blocks.17", "double block 17", "double 17"),
        ("transformer_blocks.59", "transformer block 59", "59"),
        ("layers.2", "layer 2", "2"),
    ],
)
def test_words(block: str, words: str, short: str) -> None:
    assert (words_for(block), short_for(block)) == (words, short)


def test_odd_names_are_words_and_many_names_take_no_time() -> None:
    """A superscript two is no number, nor are 5,000 digits; 4,000 fused names took 74 s when each looked at all."""
    odd = ["blocks.\u00b2.attn2.to_k.weight", f"blocks.{'9' * 5000}.attn2.to_v.weight", f"a.qkv.weight[{'1' * 5000}:2]"]
    assert {weight.name for weight in searched_weights(odd)} == set(odd)
    fused = [f"layers.{k // 2}.attention.qkv.weight[{32 * (1 + k % 2)}:{32 * (2 + k % 2)}]" for k in range(4000)]
    began = time.process_time()
    assert [weight.projection for weight in searched_weights(fused)] == ["K", "V"] * 2000
    assert time.process_time() - began < 2
