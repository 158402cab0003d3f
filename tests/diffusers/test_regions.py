"""Concepts kept to their regions in a diffusers UNet: what acts where, and the UNet as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from support.diffusers_unet import small_unet
from torch import Tensor

from cones_ops.errors import ConesError
from cones_ops.guidance.regions import Bias, logit_bias
from cones_ops.hosts.diffusers.regions import kept_apart, recorded

diffusers = pytest.importorskip("diffusers")

GROUPS = torch.zeros(2, 2, 6, dtype=torch.bool)  # row 0: two concepts; row 1, a negative prompt: none
GROUPS[0, 0, 1:3], GROUPS[0, 1, 4] = True, True


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    return small_unet().eval()


@torch.no_grad()
def output(unet: torch.nn.Module, rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 8, 8, generator=generator)[:rows]
    text = torch.randn(2, 6, 16, generator=generator)[:rows]
    return unet(x, torch.tensor([500] * rows), encoder_hidden_states=text).sample


def test_probe_passes_are_untouched_then_only_rows_that_compete_change(unet: torch.nn.Module) -> None:
    before, processors = output(unet), dict(unet.attn_processors)
    with kept_apart(unet, GROUPS, probe=2) as apart:
        passes = [output(unet) for _ in range(3)]
    assert torch.equal(passes[0], before) and torch.equal(passes[1], before)
    assert not torch.allclose(passes[2][0], before[0], atol=1e-4)
    assert torch.allclose(passes[2][1], before[1], atol=1e-5)
    assert apart.coverage is not None and apart.coverage.shape == (2, 2, 8, 8)
    assert torch.equal(apart.coverage[0].sum(dim=0), torch.ones(8, 8)) and not apart.coverage[1].any()
    assert torch.equal(output(unet), before) and dict(unet.attn_processors) == processors


def test_nothing_changes_at_strength_zero_or_without_a_competitor(unet: torch.nn.Module) -> None:
    before = output(unet)
    alone = GROUPS.clone()
    alone[:, 1] = False
    for groups, strength in ((GROUPS, 0.0), (alone, 1.0)):
        with kept_apart(unet, groups, strength=strength, probe=0):
            assert torch.equal(output(unet), before)


def test_drawn_regions_act_from_the_first_pass_on_as_a_bias_on_the_logits(unet: torch.nn.Module) -> None:
    drawn = torch.zeros(2, 8, 8)
    drawn[0, :, :4], drawn[1, :, 4:] = 1.0, 1.0
    layer = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    hook = layer.register_forward_hook(
        lambda _, args, kwargs, result: calls.append((args[0], kwargs["encoder_hidden_states"], result)),
        with_kwargs=True,
    )
    try:
        with kept_apart(unet, GROUPS, drawn=drawn):
            output(unet)
    finally:
        hook.remove()
    x, text, result = calls[0]
    query, key, value = (
        states.unflatten(-1, (4, -1)).transpose(1, 2) for states in (layer.to_q(x), layer.to_k(text), layer.to_v(text))
    )
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    logits = logits + logit_bias(drawn.expand(2, -1, -1, -1), GROUPS, Bias())[:, None]
    expected = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(result, layer.to_out[0](expected), atol=1e-5)


def test_attention_is_recorded_in_passing(unet: torch.nn.Module) -> None:
    everything = torch.ones(2, 1, 6, dtype=torch.bool)
    before = output(unet)
    with recorded(unet, torch.cat([GROUPS, everything], dim=1)) as maps:
        assert torch.equal(output(unet), before)
    mean = maps.mean()
    assert mean.shape == (2, 3, 8, 8)
    assert torch.allclose(mean[:, 2], torch.ones(2, 8, 8), atol=1e-5)
    assert (mean[0, :2] > 0).all() and not mean[1, :2].any()


def test_wrong_groups_are_refused_and_the_unet_is_given_back(unet: torch.nn.Module) -> None:
    before, processors = output(unet), dict(unet.attn_processors)
    with pytest.raises(ConesError, match=r"\(2, 6\).*\(1, 6\)"), kept_apart(unet, GROUPS):
        output(unet, rows=1)
    with pytest.raises(ConesError, match="regions"), kept_apart(unet, GROUPS, drawn=torch.zeros(3, 8, 8)):
        pass
    assert torch.equal(output(unet), before) and dict(unet.attn_processors) == processors
