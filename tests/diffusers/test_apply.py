"""Masks shut in a diffusers UNet: exact where they act, bit-identical where they do not, and given back."""

from __future__ import annotations

import pytest
import torch
from support.diffusers_unet import small_unet
from support.masks import random_mask
from torch import Tensor

from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers.apply_masks import applied
from cones_ops.hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod
from cones_ops.masks.concept_mask import ConceptMask, multipliers, union

diffusers = pytest.importorskip("diffusers")
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02, "timesteps": 1000}
NOBODY = torch.zeros(6, dtype=torch.bool)
FIRST = torch.tensor([0, 1, 1, 0, 0, 0], dtype=torch.bool)
SECOND = torch.tensor([0, 0, 1, 1, 0, 0], dtype=torch.bool)  # shares token 2 with FIRST


def small_model(where: str = "own tokens") -> DiffusersModel:
    return DiffusersModel(small_unet(), alphas_cumprod(SCHEDULE), "v_prediction", "text K+V", where)


def half_mask(model: DiffusersModel, seed: int, **fields: str) -> ConceptMask:
    """A random mask with half of the entries."""
    shapes = {name: tuple(weight.shape) for name, weight in model.base_weights.items()}
    return random_mask(shapes, seed, 0.5, **fields)


def output(model: DiffusersModel, own: tuple[Tensor, ...] = (NOBODY, NOBODY)) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(len(own), 4, 8, 8, generator=generator)
    hidden = torch.randn(len(own), 6, 16, generator=generator)
    return model.denoise(
        x, torch.full((len(own),), 2.0), [TextTokens(h, o[None]) for h, o in zip(hidden, own, strict=True)]
    )


def test_strength_zero_and_empty_masks_are_bit_exact() -> None:
    model = small_model()
    mask, vanilla = half_mask(model, 1), output(model)
    nothing = ConceptMask({}, mask.shapes)
    own = torch.stack([FIRST, FIRST])
    for masks in ([(mask, 0.0)], [(nothing, 1.0)], []):
        with applied(model.unet, masks):
            assert torch.equal(output(model), vanilla)
        with applied(model.unet, masks, [own] * len(masks)):
            assert torch.equal(output(model), vanilla)


@pytest.mark.parametrize("own", [None, torch.stack([FIRST, SECOND])])
def test_the_unet_comes_back_bit_by_bit(own: Tensor | None) -> None:
    model = small_model()
    vanilla = output(model)
    state = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    with pytest.raises(RuntimeError, match="cancelled"), applied(model.unet, [(half_mask(model, 1), 1.0)], [own]):
        assert not torch.equal(output(model), vanilla)
        raise RuntimeError("cancelled")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.unet.state_dict().items())
    assert torch.equal(output(model), vanilla)


def test_half_precision_bits_come_back() -> None:
    model = small_model()
    model.unet.half()
    state = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    with applied(model.unet, [(half_mask(model, 1), 0.3), (half_mask(model, 2), 0.7)]):
        pass
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.unet.state_dict().items())


@pytest.mark.parametrize("strength", [1.5, -1.0, float("nan"), float("inf")])
def test_a_strength_that_is_not_from_0_to_1_is_refused(strength: float) -> None:
    model = small_model()
    with pytest.raises(ConesError, match=f"strength {strength:g} is not from 0 to 1"):
        applied(model.unet, [(half_mask(model, 1), strength)]).__enter__()


@pytest.mark.parametrize("placed", [False, True])
def test_order_of_masks_is_irrelevant(placed: bool) -> None:
    model = small_model()
    triples = [
        (half_mask(model, 1), 1.0, torch.stack([FIRST, NOBODY])),
        (half_mask(model, 2), 0.7, torch.stack([SECOND, FIRST])),
        (half_mask(model, 3), 0.2, torch.stack([FIRST, SECOND])),
    ]
    results = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        chosen = [triples[i] for i in order]
        with applied(model.unet, [(m, s) for m, s, _ in chosen], [own for *_, own in chosen] if placed else None):
            results.append(output(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_everywhere_equals_the_search_multiplier_and_the_union() -> None:
    model = small_model("everywhere")
    first, second = half_mask(model, 1), half_mask(model, 2)
    with model.multiplied(multipliers(union(first, second))):
        expected = output(model)
    with applied(model.unet, [(first, 1.0), (second, 1.0)]):
        assert torch.allclose(output(model), expected, atol=1e-6)


def test_own_tokens_equal_the_search_multiplier() -> None:
    model = small_model()
    mask, own = half_mask(model, 1), (FIRST, SECOND)
    with model.multiplied(multipliers(mask)):
        expected = output(model, own)
    with applied(model.unet, [(mask, 1.0)], [torch.stack(own)]):
        assert torch.allclose(output(model), expected, atol=1e-6)


def test_two_masks_each_at_its_own_tokens_are_united_where_they_share_one() -> None:
    model = small_model()
    first, second = half_mask(model, 1), half_mask(model, 2)
    name = sorted(model.base_weights)[0]
    module = model._modules[name]
    x = torch.randn(2, 6, 16)
    with applied(model.unet, [(first, 1.0), (second, 1.0)], [FIRST.repeat(2, 1), SECOND.repeat(2, 1)]), torch.no_grad():
        y = module(x)
    weight = model.base_weights[name]
    rows = {0: [], 1: [first], 2: [first, second], 3: [second], 5: []}
    for token, masks in rows.items():
        theta = weight * multipliers(union(*masks))[0, name] if masks else weight
        assert torch.allclose(y[:, token], x[:, token] @ theta.T, atol=1e-5), token


def test_own_tokens_leave_prompts_without_the_identifier_bit_identical() -> None:
    model = small_model()
    vanilla = output(model)
    with applied(model.unet, [(half_mask(model, 1), 1.0)], [torch.stack([NOBODY, FIRST])]):
        changed = output(model)
    assert torch.equal(changed[0], vanilla[0])
    assert not torch.equal(changed[1], vanilla[1])


def test_a_mask_of_another_model_is_refused() -> None:
    model = small_model()
    right = half_mask(model, 1, fingerprint=model.fingerprint())
    wrong = half_mask(model, 1, fingerprint="0" * 64)
    with applied(model.unet, [(right, 1.0)]):
        pass
    with pytest.raises(ConesError, match="any_base"), applied(model.unet, [(wrong, 1.0)]):
        pass
    with applied(model.unet, [(wrong, 1.0)], any_base=True):
        pass
    for index, shapes in (({}, {"input_blocks.9.1.x.attn2.to_k.weight": (2, 2)}), ({}, {right.names[0]: (2, 2)})):
        with pytest.raises(ConesError, match="another model"), applied(model.unet, [(ConceptMask(index, shapes), 1.0)]):
            pass


def test_own_positions_must_fit_the_batch() -> None:
    model = small_model()
    mask = half_mask(model, 1)
    with applied(model.unet, [(mask, 1.0)], [FIRST[None]]), pytest.raises(ConesError, match="every row"):
        output(model)
    with pytest.raises(ConesError, match="boolean"), applied(model.unet, [(mask, 1.0)], [FIRST]):
        pass
    with pytest.raises(ConesError, match="one per mask"), applied(model.unet, [(mask, 1.0)], []):
        pass


@pytest.mark.slow
def test_compiled_unets_and_adapters_are_named() -> None:
    """Their weights have other names, which looked as if the mask were another model's."""
    model = small_model()
    mask = half_mask(model, 1)
    layer = next(module for name, module in model.unet.named_modules() if name.endswith("attn2.to_k"))
    with pytest.raises(ConesError, match="this UNet is compiled; use its plain one"):
        applied(torch.compile(model.unet), [(mask, 1.0)]).__enter__()
    layer.base_layer = torch.nn.Linear(2, 2)
    with pytest.raises(ConesError, match=r"adapters at 2 layers, such as .*attn2\.to_k\.base_layer\.weight"):
        applied(model.unet, [(mask, 1.0)]).__enter__()
