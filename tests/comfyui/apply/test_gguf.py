"""Models whose weights a GGUF loader keeps packed: found, applied and sampled as a dense model of the same values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cones_concept_neurons.cones_ops.masks.fingerprint import fingerprint
from cones_concept_neurons.cones_ops.search.settings import SearchSettings
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX, base_weight, parameter_shapes
from cones_concept_neurons.nodes.host.search.find import SearchInputs, search
from support.packed_layers import STAND_IN, comfyui_gguf
from support.small_models import CPU, DEVICE, SKS, encode, inner_model, mask_of, random_state, sampled, sd15, small_unet


@pytest.fixture(params=["stand-in", "ComfyUI-GGUF"])
def models(request):
    """(packed, dense): text K and V packed, and a plain model of what they stand for."""
    kind = STAND_IN if request.param == "stand-in" else comfyui_gguf()
    with torch.inference_mode():
        dense = small_unet()
        config = sd15(torch.float32)
        config.custom_operations = kind.ops
        model = inner_model(config)
        state = random_state(dense.model.diffusion_model, 0)
        text = [name for name in state if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
        state |= {name: kind.pack(state[name]) for name in text}
        unet = model.diffusion_model
        for name, value in state.items():
            layer = unet.get_submodule(name.rpartition(".")[0])
            setattr(layer, name.rpartition(".")[2], torch.nn.Parameter(value, requires_grad=False))
        packed = kind.patcher(model, load_device=DEVICE, offload_device=CPU)
        for name in text:
            weight = base_weight(packed, PREFIX + name)
            assert not torch.equal(weight, dense.model.diffusion_model.get_parameter(name))  # packing rounds
            dense.model.diffusion_model.get_parameter(name).copy_(weight)
    return packed, dense


def test_shapes_and_fingerprint_are_those_of_the_weights_it_stands_for(models):
    packed, dense = models
    assert parameter_shapes(packed) == parameter_shapes(dense)
    names = sorted(mask_of(dense, SKS, 1).shapes)
    prints = [fingerprint({name: base_weight(one, PREFIX + name) for name in names}) for one in models]
    assert prints[0] == prints[1]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
def test_it_draws_what_the_dense_model_draws(models, where):
    packed, dense = models
    mask = replace(mask_of(dense, SKS, 1), where=where)
    text = encode(seed=0), encode({}, seed=1)
    before = sampled(packed, *text)
    close = 1e-6 * float(before.abs().max()) * (1 if DEVICE == CPU else 10)
    assert torch.allclose(before, sampled(dense, *text), atol=close)
    found, expected = (sampled(apply_masks(one, [(mask, 1.0)]), *text) for one in models)
    assert torch.allclose(found, expected, atol=close) and not torch.allclose(found, before, atol=1e-2)
    assert torch.equal(sampled(packed, *text), before)


def test_the_base_weight_is_read_beneath_the_patches_that_ride_on_it(models):
    packed, dense = models
    mask = replace(mask_of(dense, SKS, 1), where="everywhere")
    name = sorted(mask.shapes)[0]
    text = encode(seed=0), encode({}, seed=1)
    applied = apply_masks(packed, [(mask, 1.0)])
    masked = sampled(applied, *text)
    weight = packed.model.diffusion_model.get_parameter(name)
    riding = weight.patches
    assert torch.equal(base_weight(packed, PREFIX + name).cpu(), base_weight(dense, PREFIX + name).cpu())
    assert weight.patches is riding and torch.equal(sampled(applied, *text), masked)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
def test_the_search_sees_what_it_sees_in_the_dense_model(models, where):
    generator = torch.Generator().manual_seed(3)
    latents = {"samples": torch.randn(2, 4, 8, 8, generator=generator)}
    task = SearchInputs(latents, encode(seed=0), None, encode({}, seed=1), *SKS)
    settings = SearchSettings("taylor", steps=2, batch=2, held_out=4)
    with torch.inference_mode():
        found, expected = (search(one, task, "text K+V", settings, 0.1, 1.0, where=where) for one in models)
    assert found.history == pytest.approx(expected.history, rel=1e-4)
    for name, score in expected.scores.items():
        assert torch.allclose(found.scores[name], score, rtol=1e-3, atol=1e-4 * float(score.abs().max())), name
    assert found.mask.fingerprint == expected.mask.fingerprint
