"""Export as LoRA: base + delta is the shut weight, for plain and shared weights; what cannot be exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cones_ops import ConceptMask, ConesError, shut_
from cones_ops.masks.lora_file import export_text, key_of, lora_tensors, save_lora

NAME = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
FUSED = "layers.0.attention.qkv.weight"


def mask(**fields: str) -> ConceptMask:
    return ConceptMask({NAME: torch.tensor([0, 5])}, {NAME: (2, 3)}, "sks", "star", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_base_and_delta_are_the_shut_weight(dtype: torch.dtype) -> None:
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    (key,) = tensors = lora_tensors(mask(), {NAME: weight}.__getitem__)
    assert key == "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.diff" == key_of(NAME)
    assert tensors[key].dtype == dtype
    assert torch.equal(weight + tensors[key], shut_(weight.clone(), torch.tensor([0, 5])))


def test_fp8_is_kept_exactly() -> None:
    weight = torch.randn(2, 3).to(torch.float8_e4m3fn)
    (delta,) = lora_tensors(mask(), {NAME: weight}.__getitem__).values()
    assert delta.dtype == torch.float16 and torch.equal(delta.view(-1)[[0, 5]], -weight.half().view(-1)[[0, 5]])


def test_k_and_v_of_one_weight_share_a_delta() -> None:
    """Rows 2:4 are K, 4:6 V; K's entry 1 is row 2, column 1, V's entry 5 is row 5, column 2."""
    weight = torch.arange(1.0, 19.0).reshape(6, 3)
    index = {f"{FUSED}[2:4]": torch.tensor([1]), f"{FUSED}[4:6]": torch.tensor([5])}
    tensors = lora_tensors(ConceptMask(index, dict.fromkeys(index, (2, 3)), "sks"), {FUSED: weight}.__getitem__)
    expected = torch.zeros(6, 3)
    expected[2, 1], expected[5, 2] = -8.0, -18.0
    assert list(tensors) == ["diffusion_model.layers.0.attention.qkv.diff"]
    assert torch.equal(next(iter(tensors.values())), expected)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    tensors = lora_tensors(mask(fingerprint="ab" * 32), {NAME: torch.ones(2, 3)}.__getitem__)
    file = save_lora(mask(fingerprint="ab" * 32), tensors, tmp_path / "people" / "sks.safetensors")
    assert file == tmp_path / "people" / "sks.safetensors" and [p.name for p in file.parent.iterdir()] == [
        "sks.safetensors"
    ]
    assert torch.equal(load_file(file)[key_of(NAME)], tensors[key_of(NAME)])
    with safe_open(file, "pt") as opened:
        meta = opened.metadata()
    assert meta["modelspec.trigger_phrase"] == "sks star" and meta["modelspec.architecture"] == "unknown/lora"
    assert "2 neurons of 'sks star'" in (text := export_text(mask(), file)) and "dense" in text


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    file = tmp_path / "sks.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(ConesError, match="exists already"):
        save_lora(mask(), {}, file)
    assert file.read_bytes() == b"mine"
    with pytest.raises(ConesError, match=r"\.safetensors"):
        save_lora(mask(), {}, tmp_path / "sks.pt")


def test_what_cannot_be_exported() -> None:
    with pytest.raises(ConesError, match=r"own tokens.*where = everywhere"):
        lora_tensors(mask(where="own tokens"), {NAME: torch.ones(2, 3)}.__getitem__)
    with pytest.raises(ConesError, match="no neurons"):
        lora_tensors(ConceptMask({}, {NAME: (2, 3)}), {NAME: torch.ones(2, 3)}.__getitem__)
    with pytest.raises(ConesError, match=r"shape \(2, 3\) but the weight has \(3, 2\)"):
        lora_tensors(mask(), {NAME: torch.ones(3, 2)}.__getitem__)
