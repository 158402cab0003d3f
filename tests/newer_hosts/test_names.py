"""The layers of newer model families by their names alone; needs no ComfyUI."""

from __future__ import annotations

import pytest

from cones_ops import ConesError, select_targets
from cones_ops.models.targets import own_tokens_at, text_layout
from cones_ops.models.weight_names import searched_weights

pytestmark = pytest.mark.newer_hosts


def both(weight: str) -> dict[str, tuple[int, int]]:
    """A K weight and the V weight that goes with it."""
    return {weight: (4, 4), weight.replace("k.", "v.").replace("add_k", "add_v").replace("key", "value"): (4, 4)}


QWEN_21 = both("transformer_blocks.0.attn.to_k.weight")
QWEN_1 = QWEN_21 | both("transformer_blocks.0.attn.add_k_proj.weight")
SEARCHED = {
    "Krea 2": (both("blocks.0.attn.wk.weight"), "start", True),
    "Ernie-Image": (both("layers.0.self_attention.to_k.weight"), "end", True),
    "Qwen-Image 2.1": (QWEN_21, "start", True),
    "Mage-Flow": (both("transformer_blocks.0.attn.add_k_proj.weight"), "start", False),
}


@pytest.mark.parametrize("family", SEARCHED)
def test_families_with_a_weight_per_projection(family: str) -> None:
    weights, start, further = SEARCHED[family]
    names = select_targets(weights)
    assert names == sorted(weights)
    for name in names:
        layout = text_layout(name)
        assert own_tokens_at(name, weights) == start and layout and layout.further == further
    assert [weight.row for weight in searched_weights(names)] == ["K", "V"]


def test_families_with_one_weight_for_all() -> None:
    joy = {f"double_blocks.0.attn.{half}_attn_qkv.weight": (12, 4) for half in ("img", "txt")}
    text = "double_blocks.0.attn.txt_attn_qkv.weight"
    assert select_targets(joy) == [f"{text}[4:8]", f"{text}[8:12]"]
    assert len(select_targets(joy, "text + self K+V")) == 4
    ideogram = {"layers.0.attention.qkv.weight": (12, 4), "layers.0.attention.o.weight": (4, 4)}
    assert select_targets(ideogram) == [f"layers.0.attention.qkv.weight[{rows}]" for rows in ("4:8", "8:12")]


def test_the_same_names_read_the_picture_where_the_text_has_layers_of_its_own() -> None:
    assert select_targets(QWEN_1) == sorted(both("transformer_blocks.0.attn.add_k_proj.weight"))
    assert own_tokens_at("transformer_blocks.0.attn.to_k.weight", QWEN_1) is None
    assert own_tokens_at("transformer_blocks.0.attn.to_k.weight", QWEN_21) == "start"
    rows = [weight.row for weight in searched_weights(select_targets(QWEN_1, "text + self K+V"))]
    assert rows == ["K", "V", "picture K", "picture V"]


REFUSED = {
    "MiniMax H3": {"blocks.0.attn.qkv_proj.weight": (12, 4)},
    "SenseNova U1": both("language_model.model.layers.0.self_attn.k_proj.weight"),
    "Kandinsky 5": both("visual_transformer_blocks.0.cross_attention.to_key.weight"),
    "OmniGen 2": both("layers.0.attn.to_k.weight"),
    "Boogu": both("single_stream_layers.0.attn.to_k.weight"),
    "HiDream-O1": both("language_model.layers.0.self_attn.k_proj.weight"),
    "Lens": {"transformer_blocks.0.attn.txt_qkv.weight": (12, 4), "transformer_blocks.0.attn.img_qkv.weight": (12, 4)},
    "PixelDiT": {"patch_blocks.0.attn.qkv_y.weight": (12, 4), "pixel_blocks.0.attn.qkv.weight": (12, 4)},
}


@pytest.mark.parametrize("choice", ["text K+V", "text + self K+V"])
@pytest.mark.parametrize("family", REFUSED)
def test_families_without_a_rule_are_refused_by_name(family: str, choice: str) -> None:
    weights = REFUSED[family]
    with pytest.raises(ConesError, match="where the text is in their input is not known") as refusal:
        select_targets({**weights, "norm.weight": (4,)}, choice)  # type: ignore[arg-type]
    assert next(iter(weights)) in str(refusal.value) and "docs/reference/models.md" in str(refusal.value)
