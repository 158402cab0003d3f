"""Every model family of the host, from its own classes: find, save, load, apply, one sampling step, exact gradients."""

from __future__ import annotations

import comfy.ldm.common_dit
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from cones_concept_neurons.cones_ops.masks.concept_mask import multipliers
from cones_concept_neurons.cones_ops.masks.mask_file import load_mask, save_mask
from cones_concept_neurons.cones_ops.models.targets import own_tokens_at, select_targets
from cones_concept_neurons.cones_ops.models.weight_names import layer_and_rows
from cones_concept_neurons.cones_ops.search.settings import SearchSettings
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from cones_concept_neurons.nodes.host.samples import Samples, without_text
from cones_concept_neurons.nodes.host.search import host_model
from cones_concept_neurons.nodes.host.search.borrow import borrow
from cones_concept_neurons.nodes.host.search.find import SearchInputs, search
from cones_concept_neurons.nodes.host.search.taps import training_kernels as differentiable_kernels
from cones_concept_neurons.nodes.host.text.layout import WHOLE_TEXT
from support.newer_families import FAMILIES
from support.small_families import OWN, model_of, prompt_of
from support.small_models import DEVICE, SKS, mask_of, sampled, traces

QUICK = ("SD 1.5", "Flux")
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
WHERE = [
    pytest.param(name, where, marks=[] if name in QUICK else pytest.mark.slow)
    for name, family in FAMILIES.items()
    for where in ("everywhere", "own tokens")[: 1 + family.own_tokens]
]
_models: dict[str, object] = {}


def loaded(name):
    if name not in _models:
        with torch.inference_mode():  # as the host loads models
            _models[name] = model_of(FAMILIES[name])
    return FAMILIES[name], _models[name]


def latents_of(family, count=2):
    return torch.randn(count, *family.latent, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ALL)
def test_the_default_targets(name):
    family, model = loaded(name)
    shapes = parameter_shapes(model)
    found = select_targets(shapes)
    assert len(found) == family.count and set(family.first) <= set(found)
    k, v = (select_targets(shapes, choice) for choice in ("text K", "text V"))
    assert sorted(k + v) == found and len(k) == len(v) and family.first[0] in k and family.first[1] in v
    every = set(select_targets(shapes, "text + self K+V"))
    assert set(found) <= every and (set(found) < every) == family.self_layers
    assert all((own_tokens_at(one, shapes) is not None) == family.own_tokens for one in found)


@pytest.mark.parametrize(("name", "where"), WHERE)
def test_find_save_load_apply(name, where, tmp_path):
    family, model = loaded(name)
    before = traces(model)
    task = SearchInputs(
        {"samples": latents_of(family)}, prompt_of(family), None, prompt_of(family, 1, named=False), *SKS
    )
    settings = SearchSettings(steps=2, batch=2, held_out=2)
    samples = []
    every_step = Samples(1, 2.0, without_text(task.subject_conditioning), samples.append)
    with torch.inference_mode():
        mask = search(model, task, "text K+V", settings, 0.2, 1.0, where=where, samples=every_step).mask
    assert len(samples) == 2
    assert mask.density == pytest.approx(0.2, abs=2e-3) and mask.where == where
    back = load_mask(save_mask(mask, tmp_path / "mask.safetensors"))
    applied = apply_masks(model, [(back, 1.0)])
    shown = {"shape": family.latent, "rows": 1, "steps": 1}
    named, plain = prompt_of(family), prompt_of(family, 2, named=False)
    assert not torch.equal(sampled(applied, named, plain, **shown), sampled(model, named, plain, **shown))
    same = torch.equal(sampled(applied, plain, plain, **shown), sampled(model, plain, plain, **shown))
    assert same == (where == "own tokens")
    assert torch.equal(
        sampled(apply_masks(model, [(back, 0.0)]), named, plain, **shown), sampled(model, named, plain, **shown)
    )
    assert traces(model) == before


def densely(layers, own):
    """Forwards in plain autograd: rows of layers by other weights. own: x -> (rows, tokens), or None for all."""

    def replace(module, parts):
        def forward(x):
            whole = module.weight.to(x.device), None if module.bias is None else module.bias.to(x.device)
            y = torch.nn.functional.linear(x, *whole)
            at = own(x) if own else (slice(None),)
            for rows, weight in parts:
                bias = None if whole[1] is None else whole[1][rows]
                new = torch.nn.functional.linear(x[at], weight.to(x.device), bias)
                y = torch.cat([y[..., : rows.start or 0], place(y[..., rows], at, new), tail(y, rows)], dim=-1)
            return y

        module.__dict__["forward"] = forward

    for module, parts in layers.items():
        replace(module, parts)


def place(y, at, new):
    return new if at == (slice(None),) else y.index_put(at, new)


def tail(y, rows):
    return y[..., y.shape[-1] :] if rows.stop is None else y[..., rows.stop :]


def layers_of(network, names, weights):
    """module -> [(rows, other weight of these rows)]."""
    layers = {}
    for name in names:
        path, rows = layer_and_rows(name)
        layers.setdefault(network.get_submodule(path), []).append((rows, weights[name]))
    return layers


def own_of(family, count):
    """Where own tokens are in what a layer reads, by hand."""

    def own(x):
        row, token = torch.cartesian_prod(torch.arange(count), torch.tensor(OWN) + family.before).unbind(1)
        return (torch.zeros_like(row), row * (x.shape[1] // count) + token) if family.one_row else (row, token)

    return own


@pytest.mark.parametrize(("name", "where"), WHERE)
def test_the_picture_equals_a_dense_model(name, where):
    family, model = loaded(name)
    mask = mask_of(model, SKS, 4)
    mask = type(mask)(mask.index, mask.shapes, *SKS, where=where)
    shown = {"shape": family.latent, "rows": 2, "steps": 2, "cfg": 1.0}
    text = prompt_of(family), prompt_of(family, 1, named=False)
    found, vanilla = sampled(apply_masks(model, [(mask, 1.0)]), *text, **shown), sampled(model, *text, **shown)
    dense = model.clone()
    dense.model_options["transformer_options"] |= WHOLE_TEXT  # the text goes through the layers in every step

    def patched(executor, *args, **kwargs):
        network = executor.class_obj.diffusion_model
        masked = {}
        for (_, one), shut in multipliers(mask).items():
            path, rows = layer_and_rows(one)
            masked[one] = network.get_submodule(path).weight[rows].cpu() * shut
        layers = layers_of(network, mask.names, masked)
        densely(layers, own_of(family, 2) if where == "own tokens" else None)
        try:
            return executor(*args, **kwargs)
        finally:
            for module in layers:
                module.__dict__.pop("forward")

    dense.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", patched)
    expected = sampled(dense, *text, **shown)
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    assert (found - vanilla).abs().max() > 10 * (found - expected).abs().max()


@pytest.mark.parametrize("name", ALL)
def test_blocks_that_are_run_again_give_the_same_gradients(name):
    family, model = loaded(name)
    targets, latents = select_targets(parameter_shapes(model)), latents_of(family)

    def body(host):
        sigma = host.sigma_at(torch.tensor([0.3, 0.6]))
        x = host.noised(host.latents["subject"], torch.ones_like(latents), sigma)
        return host.gradients(lambda: host.denoise(x, sigma, ["subject", "subject"]).square().mean())

    given = {"subject": prompt_of(family)}, {"subject": latents}, targets, body
    (loss, plain), (same, again) = (borrow(model, *given, checkpoint=one) for one in (False, True))
    assert float(same) == pytest.approx(float(loss), rel=1e-6)
    assert sorted(plain) == [(0, name) for name in sorted(targets)]
    for key, gradient in plain.items():
        assert (gradient - again[key]).abs().max() <= 1e-5 * gradient.abs().max(), key


@pytest.mark.parametrize(("name", "where"), WHERE)
def test_rows_of_different_prompts_go_through_the_model_together(name, where, monkeypatch):
    """One call of the model gives what a call for each prompt gives."""
    family, model = loaded(name)
    targets, latents = select_targets(parameter_shapes(model)), latents_of(family, 3)
    labels, calls, call = ["subject", "other", "subject"], [], comfy.samplers.calc_cond_batch

    def counted(*inputs):
        calls.append(len(inputs[2]))
        return call(*inputs)

    monkeypatch.setattr(comfy.samplers, "calc_cond_batch", counted)

    def body(host):
        sigma = host.sigma_at(torch.tensor([0.3, 0.6, 0.8]))
        x = host.noised(host.latents["subject"], torch.ones_like(latents), sigma)
        return host.gradients(lambda: host.denoise(x, sigma, labels).square().mean())

    conditionings = {"subject": prompt_of(family), "other": prompt_of(family, 1)}
    inputs = conditionings, {"subject": latents, "other": latents}, targets, body
    concepts = [SKS] if where == "own tokens" else []
    loss, together = borrow(model, *inputs, concepts=concepts)
    assert set(calls) == {3}
    calls.clear()
    monkeypatch.setattr(host_model, "joined_rows", lambda conds: None)
    same, apart = borrow(model, *inputs, concepts=concepts)
    assert set(calls) == {2, 1}
    assert float(same) == pytest.approx(float(loss), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in apart.values())
    for key, gradient in apart.items():
        assert (gradient - together[key]).abs().max() <= 1e-4 * largest, key


@pytest.mark.parametrize(("name", "where"), WHERE)
def test_taps_equal_dense_autograd(name, where, monkeypatch):
    family, model = loaded(name)
    targets = select_targets(parameter_shapes(model))
    generator = torch.Generator().manual_seed(2)
    shapes = parameter_shapes(model)
    multiplier = {(0, n): (torch.rand(shapes[n], generator=generator) > 0.2).float() for n in targets}
    latents = latents_of(family)
    noise = torch.randn(latents.shape, generator=generator)
    seen = {}

    def body(host):
        sigma = host.sigma_at(torch.tensor([0.3, 0.6]))
        x = host.noised(host.latents["subject"], noise, sigma)
        with host.multiplied(multiplier):
            loss = host.gradients(lambda: host.denoise(x, sigma, ["subject", "subject"]).square().mean())
        seen.update(x=x, sigma=sigma, cond=host.conds["subject"][0]["model_conds"])
        return loss

    concepts = [SKS] if where == "own tokens" else []
    with torch.inference_mode():
        given = {"subject": prompt_of(family)}, {"subject": latents}
        loss, gradients = borrow(model, *given, targets, body, concepts=concepts)
    twin = model_of(family).model.to(DEVICE)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    leaves = {}
    for one in targets:
        path, rows = layer_and_rows(one)
        leaves[one] = (
            twin.diffusion_model.get_submodule(path).weight[rows] * multiplier[0, one].to(DEVICE)
        ).requires_grad_()
    densely(layers_of(twin.diffusion_model, targets, leaves), own_of(family, 2) if concepts else None)
    for norm in twin.diffusion_model.modules():  # some blocks add in place to what a norm has kept
        if isinstance(norm, torch.nn.LayerNorm | torch.nn.RMSNorm):
            norm.register_forward_pre_hook(lambda _, x: (x[0].clone(), *x[1:]))
    rms_norm = comfy.ldm.common_dit.rms_norm
    monkeypatch.setattr(comfy.ldm.common_dit, "rms_norm", lambda x, *given: rms_norm(x.clone(), *given))
    attention = comfy.ldm.modules.attention.attention_pytorch
    options = {"optimized_attention_override": lambda _, *a, **k: attention(*a, **k), "sample_sigmas": seen["sigma"]}
    options |= WHOLE_TEXT
    conds = {key: one.process_cond(batch_size=2, area=None).cond for key, one in seen["cond"].items()}
    monkeypatch.setattr(comfy.model_management, "in_training", True, raising=False)
    with differentiable_kernels():
        denoised = twin.apply_model(seen["x"].clone(), seen["sigma"].clone(), transformer_options=options, **conds)
        expected_loss = denoised.square().mean()
        expected = torch.autograd.grad(expected_loss, [leaves[one] for one in targets])
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 0
    for one, gradient in zip(targets, expected, strict=True):
        assert (gradients[0, one] - gradient).abs().max() <= 1e-3 * gradient.abs().max() + 1e-6 * largest, one
