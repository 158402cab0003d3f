"""Masked weights in a loaded model: exact whatever the host computes in, given back, and in little memory."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.apply.exact_weights import Untouched
from cones_concept_neurons.nodes.host.apply.sparse_entries import BITS
from cones_concept_neurons.nodes.host.parameters import PREFIX, base_weight
from support.small_models import DYNAMIC, SKS, ZWX, mask_of, small_unet

pytestmark = [
    pytest.mark.slow,  # the whole file: it builds models
    pytest.mark.skipif(DYNAMIC, reason="with dynamic VRAM weights are patched only when they are used"),
]


@pytest.fixture(autouse=True)
def nothing_loaded():
    comfy.model_management.unload_all_models()
    yield
    comfy.model_management.unload_all_models()


def made(dtype="float32"):
    with torch.inference_mode():
        model = small_unet(getattr(torch, dtype))
    return model, [replace(mask_of(model, who, seed), where="everywhere") for who, seed in ((SKS, 1), (ZWX, 2))]


def bits(weight):
    return weight.detach().cpu().view(BITS[weight.element_size()]).flatten().clone()


def loaded(patcher, names):
    """The bits of the weights that the loaded model has."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher])
    return {name: bits(comfy.utils.get_attr(patcher.model, PREFIX + name)) for name in names}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_unmasked_entries_keep_their_bits_where_the_host_computes_patches_in_fp16(dtype, strength, monkeypatch):
    """As hosts do on GPUs; fp16 can hold neither every fp32 nor every small bf16."""
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: torch.float16)
    model, (mask, _) = made(dtype)
    names = sorted(mask.shapes)
    before = loaded(model, names)
    after = loaded(apply_masks(model, [(mask, strength)]), names)
    for name in names:
        held = torch.zeros(len(before[name]), dtype=torch.bool).index_fill_(0, mask.index[name], True)
        assert torch.equal(after[name][~held], before[name][~held]), name
        old, new = (one[name].view(model.model.diffusion_model.get_parameter(name).dtype) for one in (before, after))
        expected = (old.float() * (1 - strength)).to(old.dtype)
        assert torch.equal(new.float()[held], expected.float()[held]), name
        assert strength < 1 or (after[name][held] == 0).all()  # +0
    assert same(loaded(model, names), before)


def test_only_the_masked_entries_are_kept_beside_the_model():
    model, (first, second) = made()
    names = sorted(first.shapes)
    before = {name: bits(model.model.diffusion_model.get_parameter(name)) for name in names}
    applied = apply_masks(model, [(first, 1.0), (second, 1.0)])
    loaded(applied, names)
    for name in names:
        kept = applied.backup[PREFIX + name]
        union = set(first.index[name].tolist()) | set(second.index[name].tolist())  # 36 %: told by a bit for each entry
        assert isinstance(kept, Untouched) and kept.bits.numel() == len(union)
        assert kept.where.nbytes <= len(before[name]) // 8 + 1
        assert torch.equal(bits(kept.weight), before[name])
        assert torch.equal(bits(base_weight(applied, PREFIX + name)), before[name])
    comfy.model_management.unload_all_models()
    assert not applied.backup
    assert same({name: bits(model.model.diffusion_model.get_parameter(name)) for name in names}, before)


def test_a_lora_on_the_same_weight_leaves_it_to_the_host():
    model, (mask, _) = made()
    name, other = sorted(mask.shapes)[:2]
    patched = model.clone()
    patched.add_patches({PREFIX + name: ("diff", (torch.full(mask.shapes[name], 0.25),))})
    before = loaded(patched, [name])[name].view(torch.float32)
    applied = apply_masks(patched, [(mask, 1.0)])
    after = loaded(applied, [name])[name].view(torch.float32)
    held = torch.zeros(len(before), dtype=torch.bool).index_fill_(0, mask.index[name], True)
    assert (after[held] == 0).all() and torch.equal(after[~held], before[~held])
    assert not isinstance(applied.backup[PREFIX + name], Untouched)
    assert isinstance(applied.backup[PREFIX + other], Untouched)


def test_clones_in_turn_and_masks_added_to_a_loaded_model():
    model, (first, second) = made()
    names = sorted(first.shapes)
    vanilla = loaded(model, names)
    one = apply_masks(model, [(first, 1.0)])
    with_one = loaded(one, names)
    both = apply_masks(one, [(second, 0.5)])  # while one is in the model
    with_both = loaded(both, names)
    comfy.model_management.unload_all_models()
    assert same(loaded(apply_masks(model, [(second, 0.5), (first, 1.0)]), names), with_both)
    assert same(loaded(one, names), with_one) and not same(with_one, with_both)
    assert same(loaded(model, names), vanilla)


def test_merging_a_loaded_model_gives_what_merging_it_unloaded_gives():
    model, (mask, _) = made()
    with torch.inference_mode():
        other = small_unet(seed=1)
    names = sorted(mask.shapes)
    applied = apply_masks(model, [(mask, 1.0)])
    expected = loaded(ModelMergeSimple().merge(other, applied, 0.5)[0], names)
    comfy.model_management.unload_all_models()
    loaded(applied, names)
    merged = ModelMergeSimple().merge(other, applied, 0.5)[0]  # reads the untouched weights of a loaded model
    assert same(loaded(merged, names), expected)


def test_unloading_a_part_gives_the_untouched_weights_back():
    model, (mask, _) = made()
    names = sorted(mask.shapes)
    vanilla = loaded(model, names)
    applied = apply_masks(model, [(mask, 1.0)])
    shut = loaded(applied, names)
    with torch.inference_mode():
        applied.partially_unload(applied.offload_device, 1e32)
    assert applied.model.model_lowvram and not applied.backup
    assert same({name: bits(comfy.utils.get_attr(applied.model, PREFIX + name)) for name in names}, vanilla)
    comfy.model_management.unload_all_models()
    assert same(loaded(applied, names), shut)
    assert same(loaded(model, names), vanilla)
