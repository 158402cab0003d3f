"""Own tokens from prompt to picture in SDXL (two text encoders) and Qwen-Image (joint attention, a language model)."""

from __future__ import annotations

import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from cones_concept_neurons.cones_ops.masks.concept_mask import multipliers
from cones_concept_neurons.cones_ops.models.targets import select_targets
from cones_concept_neurons.nodes import encode, find
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from cones_concept_neurons.nodes.host.search.borrow import borrow
from cones_concept_neurons.nodes.host.text.token_positions import KEY
from support.prompts import as_lists
from support.small_models import DEVICE, SKS, mask_of, sampled, small_clip, small_model

pytestmark = pytest.mark.slow
SHAPES = {"sdxl": (4, 8, 8), "qwen": (16, 1, 8, 8)}


@pytest.fixture(scope="module", params=list(SHAPES))
def family(request):
    with torch.inference_mode():  # as the host loads models
        return request.param, small_model(request.param), small_clip(request.param)


def prompt(clip, text):
    with torch.inference_mode():
        return encode.ConesEncodePrompt.execute(clip, text, concepts="sks star").args[0]


def pictures(family, model, positive, negative, steps=2):
    kind, _, clip = family
    return sampled(model, prompt(clip, positive), prompt(clip, negative), steps=steps, shape=SHAPES[kind])


def test_find_then_apply(family):
    kind, model, clip = family
    latents = torch.randn(2, *SHAPES[kind], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        inputs = as_lists(
            model=model,
            subject_latents={"samples": latents},
            subject_conditioning=prompt(clip, "a sks star"),
            **dict(zip(("identifier", "class_word"), SKS, strict=True)),
            **{"method": "learned", "targets": "text K+V", "density": 0.2, "steps": 2, "batch": 4},
            **{"prior_weight": 1.0, "seed": 0},
        )
        mask, _, report = find.ConesFindConceptNeurons.execute(**inputs).args
    assert (mask.where, mask.identifier, mask.class_word) == ("own tokens", *SKS)
    assert "own tokens: identifier + class word, at " in report
    assert mask.density == pytest.approx(0.2, abs=1e-3)
    applied = apply_masks(model, [(mask, 1.0)])
    named, plain = ("a sks star on a lawn", ""), ("a star on a lawn", "")
    assert torch.equal(pictures(family, applied, *plain), pictures(family, model, *plain))
    assert not torch.equal(pictures(family, applied, *named), pictures(family, model, *named))
    negative = ("a lawn", "sks star")
    assert not torch.equal(pictures(family, applied, *negative), pictures(family, model, *negative))


def own_linear(layers):
    """Forwards for another load of the model: own rows by theta * multiplier, in plain autograd."""

    def replace(module, weight, own):
        def forward(x):
            bias = None if module.bias is None else module.bias.to(x.device)
            y = torch.nn.functional.linear(x, module.weight.to(x.device), bias)
            if own is None:
                return y
            return y.index_put(own, torch.nn.functional.linear(x[own], weight.to(x.device), bias))

        module.__dict__["forward"] = forward

    for module, weight, own in layers:
        replace(module, weight, own)


def test_the_picture_equals_a_dense_model(family):
    """K and V of own tokens by masked weights, all others by the untouched ones, in each layer and step."""
    kind, model, clip = family
    mask = mask_of(model, SKS, 4)
    text = prompt(clip, "a sks star on a lawn"), prompt(clip, "a lawn")
    settings = {"steps": 3, "shape": SHAPES[kind], "cfg": 1.0, "rows": 1}
    found = sampled(apply_masks(model, [(mask, 1.0)]), *text, **settings)
    places = text[0][0][1][KEY].of(SKS)
    own = torch.zeros_like(places), places
    dense = model.clone()

    def densely(executor, *args, **kwargs):
        modules = {name: executor.class_obj.get_submodule(name.removesuffix(".weight")) for name in mask.names}
        masked = multipliers(mask)
        own_linear([(m, m.weight.cpu() * masked[0, name], own) for name, m in modules.items()])
        try:
            return executor(*args, **kwargs)
        finally:
            for module in modules.values():
                module.__dict__.pop("forward")

    dense.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", densely)
    expected, vanilla = sampled(dense, *text, **settings), sampled(model, *text, **settings)
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    assert (found - vanilla).abs().max() > 10 * (found - expected).abs().max()


@pytest.mark.parametrize("again", [False, True])  # blocks are run again in the backward pass
def test_taps_at_own_tokens_equal_dense_autograd(family, again, monkeypatch):
    kind, model, clip = family
    targets = select_targets(parameter_shapes(model))
    generator = torch.Generator().manual_seed(2)
    shapes = parameter_shapes(model)
    multiplier = {(0, n): (torch.rand(shapes[n], generator=generator) > 0.2).float() for n in targets}
    latents = torch.randn(2, *SHAPES[kind], generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    text = prompt(clip, "a sks star on a lawn")
    seen = {}

    def body(host):
        sigma = host.sigma_at(torch.tensor([0.3, 0.6]))
        x = host.noised(host.latents["subject"], noise, sigma)
        with host.multiplied(multiplier):
            loss = host.gradients(lambda: host.denoise(x, sigma, ["subject", "subject"]).square().mean())
        seen.update(x=x, sigma=sigma, cond=host.conds["subject"][0]["model_conds"])
        return loss

    with torch.inference_mode():
        given = {"subject": text}, {"subject": latents}, targets, body
        loss, gradients = borrow(model, *given, concepts=[SKS], checkpoint=again)
    places = text[0][1][KEY].of(SKS)
    own = tuple(torch.cartesian_prod(torch.arange(2), places).unbind(1))
    twin = small_model(kind).model.to(DEVICE)
    leaves = {}
    for name, parameter in twin.diffusion_model.named_parameters():
        parameter.requires_grad_(False)
        if name in targets:
            leaves[name] = (parameter * multiplier[0, name].to(DEVICE)).requires_grad_()
    modules = {name: twin.diffusion_model.get_submodule(name.removesuffix(".weight")) for name in targets}
    own_linear([(modules[name], leaf, own) for name, leaf in leaves.items()])
    attention = comfy.ldm.modules.attention.attention_pytorch
    options = {"optimized_attention_override": lambda _, *a, **k: attention(*a, **k)}
    conds = {key: one.process_cond(batch_size=2, area=None).cond for key, one in seen["cond"].items()}
    monkeypatch.setattr(comfy.model_management, "in_training", True, raising=False)
    denoised = twin.apply_model(seen["x"].clone(), seen["sigma"].clone(), transformer_options=options, **conds)
    expected_loss = denoised.square().mean()
    expected = torch.autograd.grad(expected_loss, [leaves[name] for name in targets])
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in zip(targets, expected, strict=True):
        assert gradient.abs().max() > 0
        assert (gradients[0, name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name
