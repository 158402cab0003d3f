"""Exact in every storage format and memory mode: shut entries are zero where they are used, no other bit changes."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple, ModelSave
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX, layer_of, weight_in_use
from support.small_models import CPU, DEVICE, DYNAMIC, SKS, ZWX, encode, mask_of, sampled, small_unet

try:
    from comfy.quant_ops import QUANT_ALGOS
except ImportError:
    QUANT_ALGOS = {}

STORED = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
QUICK = ("float32", "float8_e4m3fn")  # the first sampling in a quantised format takes seconds
FORMATS = [
    pytest.param(dtype, format, marks=[] if dtype in QUICK else pytest.mark.slow)
    for dtype, format in [*((dtype, "") for dtype in STORED), *(("bfloat16", format) for format in QUANT_ALGOS)]
]
MODES = ("dynamic",) if DYNAMIC else ("full", "low vram")


@pytest.fixture
def mode(request, low_vram):
    """How the host loads models: all weights, as few as it can, or when they are needed."""
    if request.param == "low vram":
        low_vram()
    return request.param


def stored(dtype, format):
    with torch.inference_mode():
        try:
            return small_unet(getattr(torch, dtype), format)
        except (ImportError, NotImplementedError) as error:
            pytest.skip(f"the host cannot make {format} here: {error}")


def sampled_vanilla(model, text, format):
    try:
        return sampled(model, *text)
    except (ValueError, RuntimeError) as error:
        if DEVICE == CPU or not format:
            raise
        pytest.skip(f"the host cannot sample with {format} on this GPU: {error}")


def in_use(model, names, mode):
    """name -> weight as its layer uses it."""
    with torch.inference_mode():  # as when a prompt is run
        comfy.model_management.load_models_gpu([model])
    assert bool(model.model.model_lowvram) == (mode == "low vram")
    weights = {}
    for name in names:
        layer, rows = layer_of(model.model.diffusion_model, name)
        with torch.inference_mode(), weight_in_use(layer, torch.float32, DEVICE) as (weight, _):
            weights[name] = weight[rows].cpu().clone()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, indirect=True)
@pytest.mark.parametrize(("dtype", "format"), FORMATS)
def test_shut_entries_are_zero_and_no_other_bit_changes(dtype, format, mode):
    model = stored(dtype, format)
    masks = [replace(mask_of(model, who, seed), where="everywhere") for who, seed in ((SKS, 1), (ZWX, 2))]
    names = sorted(masks[0].shapes)
    vanilla = in_use(model, names, mode)
    one, both = apply_masks(model, [(masks[0], 1.0)]), apply_masks(model, [(mask, 1.0) for mask in masks])
    for applied, acting in ((one, masks[:1]), (both, masks), (one, masks[:1])):  # clones that live at once, in turn
        used = in_use(applied, names, mode)
        for name in names:
            shut = torch.zeros(vanilla[name].numel(), dtype=torch.bool)
            for mask in acting:
                shut[mask.index[name]] = True
            assert (used[name].flatten()[shut] == 0).all(), name
            assert torch.equal(used[name].flatten()[~shut], vanilla[name].flatten()[~shut]), name
    back = in_use(model, names, mode)
    assert all(torch.equal(back[name], vanilla[name]) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
@pytest.mark.parametrize("mode", MODES, indirect=True)
@pytest.mark.parametrize(("dtype", "format"), FORMATS)
def test_it_samples(dtype, format, mode, where):
    model = stored(dtype, format)
    mask = replace(mask_of(model, SKS, 1), where=where)
    text = encode(seed=0), encode({}, seed=1)
    vanilla = sampled_vanilla(model, text, format)
    found = sampled(apply_masks(model, [(mask, 1.0)]), *text)
    assert found.isfinite().all() and not torch.equal(found, vanilla)
    assert torch.equal(sampled(apply_masks(model, [(mask, 0.0)]), *text), vanilla)


@pytest.mark.slow
def test_merging_takes_the_mask_along():
    model, other = small_unet(), small_unet(seed=1)
    mask = replace(mask_of(model, SKS, 1), where="everywhere")
    names = sorted(mask.shapes)
    merged = ModelMergeSimple().merge(apply_masks(model, [(mask, 1.0)]), other, 0.5)[0]
    comfy.model_management.unload_all_models()
    first, second = (in_use(one, names, MODES[0]) for one in (model, other))
    used = in_use(merged, names, MODES[0])
    for name in names:
        kept = torch.ones(first[name].numel())
        kept[mask.index[name]] = 0
        expected = (first[name] * kept.reshape(first[name].shape) + second[name]) / 2
        exact = comfy.model_management.lora_compute_dtype(DEVICE) == torch.float32  # in which the host merges
        assert torch.allclose(used[name], expected, atol=1e-6 if exact else 1e-3)


def test_a_saved_model_has_the_mask_baked_in(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    model = small_unet(torch.float16)
    mask = replace(mask_of(model, SKS, 1), where="everywhere")
    node = ModelSave()
    node.output_dir = str(tmp_path)
    node.save(apply_masks(model, [(mask, 1.0)]), "baked")
    (path,) = tmp_path.glob("baked*.safetensors")
    saved = comfy.utils.load_torch_file(str(path))
    comfy.model_management.unload_all_models()
    plain = model.model.state_dict()
    for name in sorted(mask.shapes):
        flat = saved[f"model.{PREFIX}{name}"].flatten()
        expected = plain[PREFIX + name].flatten().clone()
        expected[mask.index[name]] = 0
        assert torch.equal(flat, expected)


@pytest.mark.slow
def test_a_compiled_model_draws_the_same():
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = small_unet()
    mask = replace(mask_of(model, SKS, 1), where="everywhere")
    applied = apply_masks(model, [(mask, 1.0)])
    text = encode(seed=0), encode({}, seed=1)
    expected = sampled(applied, *text)
    compiled = applied.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", keys=["diffusion_model"])
    assert torch.allclose(sampled(compiled, *text), expected, atol=1e-5)
    assert not torch.allclose(sampled(model, *text), expected, atol=1e-3)
