"""Borrowing a loaded model: gradients as dense autograd gives them, multipliers, and the model unchanged afterwards."""

from __future__ import annotations

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.models.targets import select_targets
from cones_concept_neurons.nodes.host.parameters import PREFIX, parameter_shapes
from cones_concept_neurons.nodes.host.search.borrow import borrow, threads_for
from cones_concept_neurons.nodes.host.toy_checkpoint import load_toy_checkpoint
from support.small_models import DEVICE

pytestmark = pytest.mark.slow  # the whole file: it builds models

ROWS = 3


@pytest.fixture(scope="module")
def inputs(checkpoint):
    model, clip, _ = checkpoint
    channels = model.get_model_object("latent_format").latent_channels
    with torch.inference_mode():
        conditionings = {
            "subject": clip.encode_from_tokens_scheduled(clip.tokenize("a sks cat")),
            "prior": clip.encode_from_tokens_scheduled(clip.tokenize("a cat")),
        }
        latents = {"subject": torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))}
    return conditionings, latents


@pytest.fixture(scope="module")
def targets(checkpoint):
    return select_targets(parameter_shapes(checkpoint[0]), "text + self K+V")


def snapshot(model):
    """Everything about the model that borrowing could leave behind."""
    modules = {
        name: (module.training, sorted(module.__dict__), module.__dict__.get("forward"))
        for name, module in model.model.named_modules()
    }
    tensors = {name: (id(value), value.requires_grad, value.clone()) for name, value in model.model.named_parameters()}
    tensors |= {name: (id(value), False, value.clone()) for name, value in model.model.named_buffers()}
    return modules, tensors, dict(model.patches), comfy.model_management.in_training


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, (identity, requires_grad, value) in before[1].items():
        assert after[1][name][:2] == (identity, requires_grad), name
        assert torch.equal(after[1][name][2], value), name
    assert before[2:] == after[2:]


def batch(host):
    """A fixed noisy batch, its clean latents and noise levels."""
    generator = torch.Generator().manual_seed(7)
    clean = host.latents["subject"][[0, 1, 0]]
    sigma = host.sigma_at(torch.tensor([0.1, 0.5, 0.9]))
    return host.noised(clean, torch.randn(clean.shape, generator=generator), sigma), clean, sigma


def loss_of(host):
    x, clean, sigma = batch(host)
    scale = host.output_scale(sigma).reshape(-1, 1, 1, 1)
    labels = ["subject", "prior", "subject"]
    return lambda: (((host.denoise(x, sigma, labels) - clean) / scale) ** 2).mean()


def dense(path, conditionings, latents, targets, multiplier):
    """The same loss with plain autograd on another load of the model, whose effective weights are leaves."""
    twin = load_toy_checkpoint(path)[0].model
    with torch.no_grad():
        for name, value in twin.diffusion_model.named_parameters():
            factor = multiplier.get((0, name), torch.ones(()))
            owner = twin.diffusion_model.get_submodule(name.rpartition(".")[0])
            owner._parameters[name.rpartition(".")[2]] = torch.nn.Parameter(value.clone() * factor, name in targets)
    sampling = twin.model_sampling
    generator = torch.Generator().manual_seed(7)
    clean = latents["subject"].clone()[[0, 1, 0]]
    sigma = torch.tensor([sampling.percent_to_sigma(p) for p in (0.1, 0.5, 0.9)])
    x = sampling.noise_scaling(sigma, torch.randn(clean.shape, generator=generator), clean)
    context = torch.cat([conditionings[k][0][0].clone() for k in ("subject", "prior", "subject")])
    options = {
        "optimized_attention_override": lambda _, *a, **k: comfy.ldm.modules.attention.attention_pytorch(*a, **k)
    }
    denoised = twin.apply_model(x, sigma, c_crossattn=context, transformer_options=options)
    scale = (sigma / (sigma**2 + 1).sqrt()).reshape(-1, 1, 1, 1)  # of v-prediction, by hand
    loss = (((denoised - clean) / scale) ** 2).mean()
    loss.backward()
    return loss.detach(), {name: twin.diffusion_model.get_parameter(name).grad for name in targets}


@pytest.mark.parametrize("again", [False, True])  # blocks are run again in the backward pass
@pytest.mark.parametrize("multiplied", [False, True])
def test_taps_equal_dense_autograd(path, checkpoint, inputs, targets, multiplied, again):
    model = checkpoint[0]
    generator = torch.Generator().manual_seed(1)
    shapes = parameter_shapes(model)
    multiplier = {}
    if multiplied:
        multiplier = {(0, n): (torch.rand(shapes[n], generator=generator) > 0.2).float() for n in targets}

    def body(host):
        with host.multiplied(multiplier):
            return host.gradients(loss_of(host))

    with torch.inference_mode():  # where the host runs nodes
        loss, gradients = borrow(model, *inputs, targets, body, checkpoint=again)
    expected_loss, expected = dense(path, *inputs, targets, multiplier)
    gradients = {name: gradient.cpu() for (_, name), gradient in gradients.items()}
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert sorted(gradients) == targets
    for name in targets:
        assert gradients[name].dtype == torch.float32
        largest = expected[name].abs().max()
        assert largest > 0
        assert (gradients[name] - expected[name]).abs().max() <= 1e-5 * max(1.0, float(largest)), name
        assert (gradients[name] - expected[name]).abs().max() <= 1e-3 * largest, name


def test_weights_are_the_models_and_multiplying_by_one_changes_nothing(checkpoint, inputs, targets):
    model = checkpoint[0]

    def body(host):
        for name in targets:
            assert torch.equal(host.weights[0, name], model.model.diffusion_model.get_parameter(name))
        loss = loss_of(host)
        plain = loss()
        assert not plain.requires_grad  # only `gradients` records
        with host.multiplied({(0, name): torch.ones_like(host.weights[0, name]) for name in targets}):
            same = loss()
        with host.multiplied({(0, name): torch.zeros_like(host.weights[0, name]) for name in targets}):
            other = loss()
        return plain, same, other, loss()

    plain, same, other, again = borrow(model, *inputs, targets, body)
    assert torch.equal(plain, same) and torch.equal(plain, again)
    assert not torch.equal(plain, other)


def test_noise_levels_and_output_scale_are_the_models(checkpoint, inputs, targets):
    def body(host):
        sigma = host.sigma_at(torch.tensor([0.05, 0.95]))
        x = host.noised(torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 2.0), sigma)
        return sigma, x, host.output_scale(sigma)

    sigma, x, scale = borrow(checkpoint[0], *inputs, targets, body)
    assert sigma[0] > sigma[1] > 0
    assert torch.allclose(x.flatten(), 1 + 2 * sigma)
    assert torch.allclose(scale.abs(), sigma / (sigma**2 + 1).sqrt())


class Cancelled(BaseException):
    """As the host's own exception on Cancel in newer versions."""


@pytest.mark.parametrize("ending", [None, RuntimeError, Cancelled])
def test_the_model_is_unchanged_afterwards(checkpoint, inputs, targets, ending):
    model = checkpoint[0]
    comfy.model_management.load_models_gpu([model])
    before = snapshot(model)

    def body(host):
        with host.multiplied({(0, targets[0]): torch.zeros_like(host.weights[0, targets[0]])}):
            host.gradients(loss_of(host))
            if ending is not None:
                raise ending("stop")

    if ending is None:
        borrow(model, *inputs, targets, body)
    else:
        with pytest.raises(ending):
            borrow(model, *inputs, targets, body)
    assert_same(before, snapshot(model))


def test_a_lora_on_the_model_is_part_of_the_weights(checkpoint, inputs, targets):
    model = checkpoint[0]
    name = targets[0]
    weight = model.model.diffusion_model.get_parameter(name)
    patched = model.clone()
    with torch.inference_mode():
        patched.add_patches({PREFIX + name: ("diff", (torch.full(tuple(weight.shape), 0.5),))}, 2.0)
    seen = borrow(patched, *inputs, targets, lambda host: host.weights[0, name].clone())
    base = borrow(model, *inputs, targets, lambda host: host.weights[0, name].clone())
    exact = comfy.model_management.lora_compute_dtype(seen.device) == torch.float32
    assert torch.allclose(seen, base + 1.0, atol=1e-6 if exact else 1e-3)  # on GPUs the host adds LoRAs in fp16


def test_weights_left_on_the_offload_device_give_the_same_gradients(checkpoint, inputs, targets, low_vram):
    model = checkpoint[0]
    body = lambda host: host.gradients(loss_of(host))  # noqa: E731
    expected = borrow(model, *inputs, targets, body)
    comfy.model_management.unload_all_models()
    low = model.clone()
    low.add_patches({PREFIX + targets[0]: ("diff", (torch.zeros(parameter_shapes(model)[targets[0]]),))})
    low_vram()
    offloaded = []

    def looking(host):
        offloaded.append(host.inner_model.model_lowvram)
        return body(host)

    loss, gradients = borrow(low, *inputs, targets, looking)
    assert offloaded == [True]
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    for name in targets:
        assert torch.allclose(gradients[0, name], expected[1][0, name], atol=1e-6)


def test_weights_that_the_host_lends_from_one_buffer_give_the_same_gradients(
    checkpoint, inputs, targets, low_vram, monkeypatch
):
    """As it does for what is offloaded from a GPU: each layer's weights overwrite those of the one before."""
    model = checkpoint[0]
    body = lambda host: host.gradients(loss_of(host))  # noqa: E731
    expected = borrow(model, *inputs, targets, body)
    comfy.model_management.unload_all_models()
    low = model.clone()
    low.add_patches({PREFIX + targets[0]: ("diff", (torch.zeros(parameter_shapes(model)[targets[0]]),))})
    cast = comfy.ops.cast_bias_weight
    buffer, lent = torch.empty(1_000_000, device=DEVICE), []

    def lending(layer, *given, **more):
        if not isinstance(layer, torch.nn.GroupNorm | torch.nn.LayerNorm):
            return cast(layer, *given, **more)
        functions = {name: getattr(layer, name) for name in ("weight_function", "bias_function")}
        for name in functions:
            setattr(layer, name, [])
        weight, bias, *rest = cast(layer, *given, **more)
        lent.append(layer)
        both = [buffer[: weight.numel()].copy_(weight), buffer[weight.numel() :][: bias.numel()].copy_(bias)]
        for k, (name, some) in enumerate(functions.items()):
            setattr(layer, name, some)
            for function in some:
                both[k] = function(both[k])
        return (*both, *rest)

    low_vram()
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", lending)
    loss, gradients = borrow(low, *inputs, targets, body)
    assert lent and float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    assert all(torch.allclose(gradients[0, name], expected[1][0, name], atol=1e-6) for name in targets)
    assert not any(layer.weight_function or layer.bias_function for layer in lent)


def test_the_host_loads_the_model_in_inference_mode(checkpoint, inputs, targets, monkeypatch):
    """As when a prompt is run: on a GPU, weights that were moved outside it can no longer be sliced."""
    load, seen = comfy.model_patcher.ModelPatcher.partially_load, []

    def looking(self, *args, **kwargs):
        seen.append(torch.is_inference_mode_enabled())
        return load(self, *args, **kwargs)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "partially_load", looking)
    comfy.model_management.unload_all_models()
    assert not borrow(checkpoint[0], *inputs, targets, lambda host: torch.is_inference_mode_enabled())
    assert seen == [True]


def test_weights_that_another_node_moved_outside_inference_mode_are_mended(path, inputs, targets):
    with torch.inference_mode():
        model = load_toy_checkpoint(path)[0]
    expected = borrow(model, *inputs, targets, lambda host: host.gradients(loss_of(host)))
    for value in model.model.diffusion_model.parameters():
        value.data = torch.empty(value.shape, device=value.device).copy_(value.data)  # what moving it to a GPU does
    weight = model.model.diffusion_model.get_parameter(targets[0])
    with pytest.raises(RuntimeError, match="version counter"):
        weight.t()
    loss, gradients = borrow(model, *inputs, targets, lambda host: host.gradients(loss_of(host)))
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    assert all(torch.allclose(gradients[0, name], expected[1][0, name], atol=1e-6) for name in targets)


def test_bad_input_is_named(checkpoint, inputs, targets):
    conditionings, latents = inputs
    body = lambda host: None  # noqa: E731
    with pytest.raises(ConesError, match=r"subject latents have shape \(1, 4, 8, 8\)"):
        borrow(checkpoint[0], conditionings, {"subject": torch.zeros(1, 4, 8, 8)}, targets, body)
    with pytest.raises(ConesError, match="prior conditioning is empty"):
        borrow(checkpoint[0], {**conditionings, "prior": []}, latents, targets, body)
    with pytest.raises(ConesError, match="not among the targets of 1 concepts: nothing"):
        borrow(checkpoint[0], *inputs, targets, lambda host: host.multiplied({(0, "nothing"): 0}).__enter__())
    with pytest.raises(ConesError, match="2 rows but 1 conditionings"):
        borrow(checkpoint[0], *inputs, targets, lambda host: host.denoise(torch.zeros(2), torch.ones(2), ["prior"]))


def test_a_small_model_on_the_cpu_is_searched_by_one_thread():
    before, cpu = torch.get_num_threads(), torch.device("cpu")
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(4000, 4000, device="meta")
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="stopped"), threads_for(small, cpu):
            assert torch.get_num_threads() == 1
            raise ValueError("stopped")
        assert torch.get_num_threads() == 2
        for model, device in ((large, cpu), (small, torch.device("cuda"))):
            with threads_for(model, device):
                assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
