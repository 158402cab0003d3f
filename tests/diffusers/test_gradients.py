"""Gradient taps of the diffusers host against dense autograd through a functional call of the same UNet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from support.diffusers_unet import small_unet
from torch import Tensor

from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod
from cones_ops.hosts.diffusers.names import canonical_names
from cones_ops.search.host_model import Key

pytestmark = pytest.mark.slow  # the whole file: it builds models

diffusers = pytest.importorskip("diffusers")
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02, "timesteps": 1000}
ROWS, LENGTH = 3, 6
OWN = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)


def small_model(
    where: str = "own tokens", prediction: str = "v_prediction", targets: str = "text K+V"
) -> DiffusersModel:
    return DiffusersModel(small_unet(), alphas_cumprod(SCHEDULE), prediction, targets, where)


def batch() -> tuple[Tensor, Tensor, list[TextTokens]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 4, 8, 8, generator=generator) * 3
    hidden = torch.randn(ROWS, LENGTH, 16, generator=generator)
    return x, torch.tensor([0.5, 2.0, 9.0]), [TextTokens(h, own[None]) for h, own in zip(hidden, OWN, strict=True)]


def loss_of(model: DiffusersModel) -> Callable[[], Tensor]:
    x, sigma, conditioning = batch()
    return lambda: (model.denoise(x, sigma, conditioning) ** 2).mean()


def multipliers(model: DiffusersModel) -> dict[Key, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {key: (torch.rand(w.shape, generator=generator) > 0.3).float() for key, w in model.weights.items()}


def dense_gradients(model: DiffusersModel, multiplier: dict[Key, Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
    """All tokens, by torch.func: the UNet with theta * M put in its parameters, and autograd on those."""
    names = canonical_names(model.unet.config, dict(model.unet.named_parameters()))
    theta = {n: (model.weights[n] * multiplier.get(n, torch.ones(()))).requires_grad_() for n in model.weights}
    x, sigma, conditioning = batch()
    rows = sigma[:, None, None, None]
    output = torch.func.functional_call(
        model.unet,
        {names[n]: w for (_, n), w in theta.items()},
        (x / (rows**2 + 1) ** 0.5, model.timestep(sigma), torch.stack([c.hidden for c in conditioning])),
    ).sample
    loss = ((x / (rows**2 + 1) - output * rows / (rows**2 + 1) ** 0.5) ** 2).mean()
    found = torch.autograd.grad(loss, list(theta.values()))
    return loss.detach(), dict(zip(theta, found, strict=True))


def assert_same(found: dict[Key, Tensor], expected: dict[Key, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        error = (found[name] - gradient).abs().max() / gradient.abs().max()
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("shut", [False, True])
def test_gradients_everywhere_equal_dense_autograd(shut: bool) -> None:
    model = small_model("everywhere")
    multiplier = multipliers(model) if shut else {}
    with model.multiplied(multiplier):
        loss, found = model.gradients(loss_of(model))
    expected_loss, expected = dense_gradients(model, multiplier)
    assert torch.allclose(loss, expected_loss, rtol=1e-5)
    assert_same(found, expected)


def test_self_attention_gradients_everywhere_equal_dense_autograd() -> None:
    model = small_model("everywhere", targets="text + self K+V")
    assert any("attn1" in name for name in model.base_weights)
    assert_same(model.gradients(loss_of(model))[1], dense_gradients(model, {})[1])


def masked_linear_gradients(model: DiffusersModel, multiplier: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Own tokens, by hooks that mix two complete K (or V): one of theta, one of theta * M."""
    modules = dict(model.unet.named_modules())
    names = canonical_names(model.unet.config, dict(model.unet.named_parameters()))
    effective = {n: (model.weights[n] * multiplier[n]).requires_grad_() for n in model.weights}
    hooks = []
    for (_, name), weight in effective.items():

        def mix(module: torch.nn.Module, args: tuple[Tensor, ...], y: Tensor, weight: Tensor = weight) -> Tensor:
            return torch.where(OWN[..., None], args[0] @ weight.T, y)

        hooks.append(modules[names[name].removesuffix(".weight")].register_forward_hook(mix))
    x, sigma, conditioning = batch()
    rows = sigma[:, None, None, None]
    hidden = torch.stack([c.hidden for c in conditioning])
    output = model.unet(x / (rows**2 + 1) ** 0.5, model.timestep(sigma), hidden).sample
    loss = ((x / (rows**2 + 1) - output * rows / (rows**2 + 1) ** 0.5) ** 2).mean()
    found = torch.autograd.grad(loss, list(effective.values()))
    for hook in hooks:
        hook.remove()
    return dict(zip(effective, found, strict=True))


def test_gradients_at_own_tokens_equal_a_dense_mix() -> None:
    model = small_model("own tokens")
    multiplier = multipliers(model)
    with model.multiplied(multiplier):
        found = model.gradients(loss_of(model))[1]
    assert_same(found, masked_linear_gradients(model, multiplier))


def test_half_precision_gradients_are_fp32_and_close() -> None:
    exact, half = small_model(), small_model()
    half.unet.bfloat16()
    half = DiffusersModel(half.unet, alphas_cumprod(SCHEDULE), "v_prediction")
    expected, found = exact.gradients(loss_of(exact))[1], half.gradients(loss_of(half))[1]
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.98


def test_no_own_tokens_means_no_gradient() -> None:
    model = small_model()
    x, sigma, conditioning = batch()
    nobody = [TextTokens(c.hidden, torch.zeros(1, LENGTH, dtype=torch.bool)) for c in conditioning]
    loss, found = model.gradients(lambda: model.denoise(x, sigma, nobody).mean())
    assert not loss.requires_grad
    assert all(not g.any() for g in found.values())


def test_texts_of_different_lengths_are_grouped() -> None:
    model = small_model()
    x, sigma, conditioning = batch()
    mixed = [conditioning[0], TextTokens(conditioning[1].hidden[:4], OWN[1:2, :4]), conditioning[2]]
    together = model.denoise(x, sigma, mixed)
    alone = [model.denoise(x[i : i + 1], sigma[i : i + 1], [mixed[i]]) for i in range(ROWS)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_unet_comes_back_untouched(fails: bool) -> None:
    model = small_model()
    unet = model.unet.train()
    next(iter(unet.parameters())).requires_grad_(False)
    wanted = {name: (p.requires_grad, p.clone()) for name, p in unet.named_parameters()}
    x, sigma, conditioning = batch()
    before = model.denoise(x, sigma, conditioning)

    def loss() -> Tensor:
        value = model.denoise(x, sigma, conditioning).mean()
        if fails:
            raise RuntimeError("stop")
        return value

    ending = pytest.raises(RuntimeError, match="stop") if fails else nullcontext()
    with ending, model.multiplied(multipliers(model)):
        model.gradients(loss)
    assert torch.equal(model.denoise(x, sigma, conditioning), before)
    assert all(module.training and "forward" not in module.__dict__ for module in unet.modules())
    for name, parameter in unet.named_parameters():
        assert parameter.requires_grad == wanted[name][0] and parameter.grad is None
        assert torch.equal(parameter, wanted[name][1])


@pytest.mark.parametrize(("prediction", "scale"), [("epsilon", -3.0), ("v_prediction", -3.0 / 10**0.5)])
def test_output_scale_is_the_slope_of_denoised(prediction: str, scale: float) -> None:
    model = small_model(prediction=prediction)
    assert torch.allclose(model.output_scale(torch.tensor([3.0])), torch.tensor([scale]))


def test_errors_say_what_and_what_to_do() -> None:
    model = small_model()
    x, sigma, conditioning = batch()
    with pytest.raises(ConesError, match="one per row"):
        model.denoise(x, sigma, conditioning[:1])
    with pytest.raises(ConesError, match="without a target"), model.multiplied({(0, "nowhere"): torch.ones(1)}):
        pass
    key = next(iter(model.weights))
    with pytest.raises(ConesError, match="multiplier is"), model.multiplied({key: torch.ones(1)}):
        pass
    with pytest.raises(ConesError, match="self-attention"):
        small_model("own tokens", targets="text + self K+V")
    with pytest.raises(ConesError, match="prediction type"):
        small_model(prediction="flow")
    with pytest.raises(ConesError, match="own"):
        TextTokens(torch.zeros(3, 4), torch.zeros(1, 4, dtype=torch.bool))


def several(own: Tensor, hidden: Tensor) -> list[TextTokens]:
    """Rows whose second concept owns the token behind each of the first one's."""
    second = torch.roll(own, 2, dims=1) & ~own
    return [TextTokens(h, torch.stack(both)) for h, *both in zip(hidden, own, second, strict=True)]


def test_several_concepts_act_and_are_tapped_at_their_own_tokens_each() -> None:
    x, sigma, conditioning = batch()
    rows = several(OWN, torch.stack([one.hidden for one in conditioning]))
    model = DiffusersModel(small_unet(), alphas_cumprod(SCHEDULE), "v_prediction", "text K+V", "own tokens", 2)
    single = small_model()
    assert sorted(model.weights) == sorted((k, name) for k in (0, 1) for name in single.base_weights)
    masks = multipliers(model)
    with model.multiplied(masks):
        loss, gradients = model.gradients(lambda: (model.denoise(x, sigma, rows) ** 2).mean())

    own = torch.stack([row.own for row in rows])  # (B, 2, L)
    leaves = {key: (model.weights[key] * masks[key]).requires_grad_() for key in model.weights}
    for name, module in single._modules.items():

        def forward(text: Tensor, name: str = name, module: torch.nn.Module = module) -> Tensor:
            y = torch.nn.functional.linear(text, module.weight)
            for k in (0, 1):
                y = torch.where(own[:, k, :, None], torch.nn.functional.linear(text, leaves[k, name]), y)
            return y

        module.forward = forward
    single._concepts = 2
    with single.recording(), torch.enable_grad():
        expected = (single.denoise(x, sigma, rows) ** 2).mean()
    found = torch.autograd.grad(expected, list(leaves.values()))
    assert torch.allclose(loss, expected.detach(), rtol=1e-5)
    assert_same(gradients, dict(zip(leaves, found, strict=True)))
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_concepts_that_cannot_be_told_apart_are_refused() -> None:
    own = torch.tensor([[True, True, False], [False, True, False]])
    with pytest.raises(ConesError, match="two concepts at once"):
        TextTokens(torch.zeros(3, 16), own)
    with pytest.raises(ConesError, match="only at own tokens"):
        DiffusersModel(small_unet(), alphas_cumprod(SCHEDULE), "epsilon", "text K+V", "everywhere", 2)
    x, sigma, conditioning = batch()
    model = DiffusersModel(small_unet(), alphas_cumprod(SCHEDULE), "epsilon", "text K+V", "own tokens", 2)
    with pytest.raises(ConesError, match="own tokens of 1 concepts"):
        model.denoise(x, sigma, conditioning)
