"""Concept masks as hooks: in the prompts that carry them only, by keyframes, beside LoRA hooks."""

from __future__ import annotations

from dataclasses import replace

import comfy.hooks
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import empty
from cones_concept_neurons.nodes.apply import ConesApplyConceptMasks, ConesConceptMaskHook
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX
from support.small_models import SKS, encode, mask_of, sampled, small_unet

pytestmark = pytest.mark.slow  # the whole file: it builds models


@pytest.fixture(scope="module")
def mask(model):
    return replace(mask_of(model, SKS, 4), where="everywhere")


@pytest.fixture(scope="module")
def text():
    return encode(seed=0), encode(seed=1)


def hooks_of(mask, strength=1.0, previous=None):
    return ConesConceptMaskHook.execute(mask, strength, previous).args[0]


def hooked(conditioning, hooks, **settings):
    return comfy.hooks.set_conds_props([conditioning], strength=1.0, set_cond_area="default", hooks=hooks, **settings)[
        0
    ]


def keyframes(*frames):
    group = comfy.hooks.HookKeyframeGroup()
    for strength, start in frames:
        group.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    return group


def test_a_hooked_prompt_sees_the_mask_and_nothing_else_does(model, mask, text):
    before = {name: value.cpu().clone() for name, value in model.model.state_dict().items()}
    vanilla, shut = sampled(model, *text, cfg=1.0), sampled(apply_masks(model, [(mask, 1.0)]), *text, cfg=1.0)
    assert torch.equal(sampled(model, hooked(text[0], hooks_of(mask)), text[1], cfg=1.0), shut)
    assert not torch.equal(vanilla, shut)
    assert torch.equal(sampled(model, *text, cfg=1.0), vanilla)
    guided = sampled(model, hooked(text[0], hooks_of(mask)), text[1], cfg=3.0)
    plain = sampled(model, *text, cfg=1.0), sampled(model, text[1], text[0], cfg=1.0)
    assert torch.allclose(guided, plain[1] + 3 * (shut - plain[1]), atol=1e-4)  # one step: the negative is untouched
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name].cpu()) for name, value in before.items())


def test_half_strength_is_half_strength(model, mask, text):
    half = sampled(apply_masks(model, [(mask, 0.5)]), *text, cfg=1.0)
    assert torch.allclose(sampled(model, hooked(text[0], hooks_of(mask, 0.5)), text[1], cfg=1.0), half, atol=1e-6)


def test_keyframes_and_timestep_ranges(model, mask, text):
    settings = {"steps": 4, "cfg": 1.0}
    vanilla, shut = sampled(model, *text, **settings), sampled(apply_masks(model, [(mask, 1.0)]), *text, **settings)

    def by(*frames):
        hooks = hooks_of(mask)
        hooks.set_keyframes_on_hooks(keyframes(*frames))
        return sampled(model, hooked(text[0], hooks), text[1], **settings)

    assert torch.equal(by((1.0, 0.0)), shut)
    assert torch.equal(by((0.0, 0.0)), vanilla)
    late = by((0.0, 0.0), (1.0, 0.5))
    assert not torch.equal(late, vanilla) and not torch.equal(late, shut)
    first = hooked(text[0], hooks_of(mask), timesteps_range=(0.0, 0.5))
    then = hooked(text[0], None, timesteps_range=(0.5, 1.0))
    early = sampled(model, [*first, *then], text[1], **settings)
    assert not torch.equal(early, vanilla) and not torch.equal(early, late)


def test_two_hooks_are_the_union_and_lora_hooks_stay(model, mask, text):
    other = replace(mask_of(model, SKS, 5), where="everywhere")
    first = hooks_of(mask)
    both = hooks_of(other, 1.0, first)
    assert len(first.hooks) == 1 and len(both.hooks) == 2
    expected = sampled(apply_masks(model, [(mask, 1.0), (other, 1.0)]), *text, cfg=1.0)
    assert torch.equal(sampled(model, hooked(text[0], both), text[1], cfg=1.0), expected)
    name = mask.names[0]
    delta = 0.1 * torch.randn(mask.shapes[name], generator=torch.Generator().manual_seed(0))
    lora = comfy.hooks.create_hook_lora({f"{PREFIX}{name.removesuffix('.weight')}.diff": delta}, 1.0, 0.0)
    alone = sampled(model, hooked(text[0], lora), text[1], cfg=1.0)
    together = sampled(model, hooked(text[0], hooks_of(mask, 1.0, lora)), text[1], cfg=1.0)
    assert not torch.equal(together, alone) and not torch.equal(together, expected)
    assert hooks_of(mask, 0.0, lora).hooks == lora.hooks and not hooks_of(mask, 0.0).hooks


@pytest.mark.parametrize("strength", [1.5, -1.0, float("nan"), float("inf")])
def test_strengths_and_keyframes_follow_one_rule(model, mask, text, strength):
    with pytest.raises(ConesError, match=f"strength {strength:g} is not from 0 to 1"):
        hooks_of(mask, strength)
    for where in ("everywhere", "own tokens"):
        with pytest.raises(ConesError, match=f"strength {strength:g} is not from 0 to 1"):
            ConesApplyConceptMasks.execute(model, mask_1=replace(mask, where=where), strength_1=strength)
    hooks = hooks_of(mask)
    hooks.set_keyframes_on_hooks(keyframes((0.5, 0.0), (strength, 0.5)))
    with pytest.raises(ConesError, match=f"strength times that of the keyframe at 0.5, {strength:g} is not from 0"):
        sampled(model, hooked(text[0], hooks), text[1])


def test_keyframes_multiply_the_strength_of_the_hook(model, mask, text):
    hooks = hooks_of(mask, 0.5)
    hooks.set_keyframes_on_hooks(keyframes((1.0 + 1e-9, 0.0)))  # as interpolation may leave it
    half = sampled(model, hooked(text[0], hooks_of(mask, 0.5)), text[1], cfg=1.0)
    assert torch.allclose(sampled(model, hooked(text[0], hooks), text[1], cfg=1.0), half, atol=1e-6)


def test_refusals(model, mask, text):
    with pytest.raises(ConesError, match="acts at its own tokens, and so already differs from prompt to prompt"):
        hooks_of(replace(mask, where="own tokens"))
    with pytest.raises(ConesError, match="is empty"):
        hooks_of(empty(mask.shapes))
    strange = hooks_of(replace(mask, fingerprint="0" * 64))
    with pytest.raises(ConesError, match="found on base weights 0000000000000000"):
        sampled(model, hooked(text[0], strange), text[1])
    renamed = {name.replace("attn2", "attn3"): shape for name, shape in mask.shapes.items()}
    elsewhere = replace(mask, index={next(iter(renamed)): torch.tensor([0])}, shapes=renamed)
    with pytest.raises(ConesError, match="the model has no"):
        sampled(model, hooked(text[0], hooks_of(elsewhere)), text[1])
    with torch.inference_mode():
        packed = small_unet(torch.bfloat16, "float8_e4m3fn")
    with pytest.raises(ConesError, match="are quantised, and a hook would round"):
        sampled(packed, hooked(text[0], hooks_of(mask)), text[1])
