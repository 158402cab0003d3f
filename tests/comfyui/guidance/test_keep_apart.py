"""Keep Concepts Apart while the host samples: what acts where, beside other nodes, and nothing left behind."""

from __future__ import annotations

import comfy.hooks
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.guidance.regions import Bias, logit_bias
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.guidance.keep_apart import keep_apart
from cones_concept_neurons.nodes.host.guidance.recording import settings_of
from cones_concept_neurons.nodes.host.parameters import PREFIX
from support.small_models import DEVICE, POSITIVE, SKS, ZWX, encode, mask_of, sampled, traces

pytestmark = pytest.mark.slow  # the whole file: it builds models

LEFT = torch.zeros(2, 8, 8)
LEFT[0, :, :4], LEFT[1, :, 4:] = 1.0, 1.0  # sks star in the left half, zwx heart in the right one
WORDS = ("sks star", "zwx heart")


@pytest.fixture
def text():
    return encode(), encode({}, seed=1)


def outputs(model, text, **settings):
    """The picture, and what the model gave back in each pass, (rows, ...)."""
    passes = []

    def watch(executor, *args, **kwargs):
        output = executor(*args, **kwargs)
        passes.append((args[5]["cond_or_uncond"], output.clone()))
        return output

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", watch)
    return sampled(clone, *text, **settings), passes


def test_strength_zero_is_vanilla_and_records(model, text):
    apart = keep_apart(model, (), 0.0)
    assert torch.equal(sampled(apart, *text, steps=2), sampled(model, *text, steps=2))
    recording = settings_of(apart).recording
    assert recording.names == WORDS and len(recording.prompts) == 1
    prompt = recording.prompts[0]
    assert prompt.maps.shape == (2, 2, 8, 8) and prompt.regions is None and prompt.present.tolist() == [True, True]
    assert (prompt.maps > 0).all() and (prompt.maps.sum(dim=1) < 1).all()


def test_the_first_steps_are_read_and_the_others_act(model, text):
    apart = keep_apart(model, ())
    vanilla, changed = outputs(model, text, steps=3)[1], outputs(apart, text, steps=3)[1]
    assert torch.equal(vanilla[0][1], changed[0][1])
    positive = [vanilla[1][0].index(0) * 2 + row for row in (0, 1)]
    negative = [row for row in range(4) if row not in positive]
    assert torch.equal(vanilla[1][1][negative], changed[1][1][negative])
    assert not torch.allclose(vanilla[1][1][positive], changed[1][1][positive], atol=1e-4)
    regions = settings_of(apart).recording.prompts[0].regions
    assert torch.equal(regions.sum(dim=1), torch.ones(2, 8, 8))
    assert traces(model) == {name: (0, False) for name in traces(model)}
    assert torch.equal(sampled(model, *text, steps=3), sampled(model.clone(), *text, steps=3))


def test_the_logits_of_own_tokens_are_biased_through_another_nodes_override(model, text):
    seen = []

    def others(function, *args, **kwargs):
        output = function(*args, **kwargs)
        if kwargs.get("mask") is not None:
            seen.append((*args[:4], kwargs["mask"], output))
        return output

    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = others
    sampled(keep_apart(patched, WORDS, drawn=LEFT), *text)
    assert len(seen) == 4  # the positive rows of each cross-attention in the one step
    groups = torch.zeros(2, 2, 8, dtype=torch.bool)
    groups[:, 0, POSITIVE[SKS]], groups[:, 1, POSITIVE[ZWX]] = True, True
    for query, key, value, heads, mask, output in seen:
        assert torch.equal(mask[:, 0].cpu(), logit_bias(LEFT.expand(2, -1, -1, -1), groups, Bias()))
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2).cpu() for x in (query, key, value))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask.cpu()).softmax(-1)
        assert torch.allclose(output.cpu(), (weights @ v).transpose(1, 2).flatten(2), atol=1e-4)


def test_one_thing_alone_has_nothing_to_be_kept_from(model, caplog):
    alone = encode({SKS: [1, 2], ZWX: []}), encode({}, seed=1)
    assert torch.equal(sampled(keep_apart(model, ()), *alone, steps=2), sampled(model, *alone, steps=2))
    assert "names one thing only" in caplog.text


def test_prompts_that_record_no_words_are_reported(model, text, caplog):
    plain = [[text[0][0][0], {}]]
    assert torch.equal(sampled(keep_apart(model, ()), plain, text[1]), sampled(model, plain, text[1]))
    assert "Encode Prompt with Concepts" in caplog.text
    caplog.clear()
    sampled(keep_apart(model, ("a circle",)), *text)
    assert "no prompt contains a circle" in caplog.text


def test_each_prompt_of_a_run_has_its_own_regions(model, text):
    second = encode({SKS: [3], ZWX: [4]}, seed=2)
    apart = keep_apart(model, ())
    sampled(apart, [*text[0], *second], text[1], steps=2)
    prompts = settings_of(apart).recording.prompts
    assert len(prompts) == 2 and not torch.equal(prompts[0].maps, prompts[1].maps)


def test_a_concept_in_the_negative_prompt_is_left_alone(model, text, caplog):
    assert torch.equal(sampled(keep_apart(model, ()), text[1], text[0]), sampled(model, text[1], text[0]))
    assert "names one thing only" not in caplog.text


def test_beside_masks_at_own_tokens_and_a_lora(model, text):
    masks = [(mask_of(model, SKS, 1), 1.0), (mask_of(model, ZWX, 2), 1.0)]
    name = masks[0][0].names[0]
    delta = torch.randn(masks[0][0].shapes[name], generator=torch.Generator().manual_seed(3))
    patched = apply_masks(model, masks)
    patched.add_patches({PREFIX + name: ("diff", (delta,))}, 0.05)
    before, after = sampled(patched, *text, steps=2), sampled(keep_apart(patched, ()), *text, steps=2)
    assert not torch.allclose(before, after, atol=1e-4)
    assert torch.equal(sampled(keep_apart(patched, ()), *text), sampled(patched, *text))  # one step: the probe alone
    assert torch.equal(after, sampled(apply_masks(keep_apart(patched, ()), []), *text, steps=2))


def test_weight_hooks_of_a_prompt(model, text):
    name = mask_of(model, SKS, 1).names[0]
    hooks = comfy.hooks.create_hook_lora({f"{PREFIX}{name.removesuffix('.weight')}.diff": torch.ones(256, 256)}, 0.1, 0)
    hooked = comfy.hooks.set_hooks_for_conditioning(text[0], hooks)
    apart = keep_apart(model, ())
    assert not torch.allclose(sampled(apart, hooked, text[1], steps=2), sampled(model, hooked, text[1], steps=2))
    assert len(settings_of(apart).recording.prompts) == 1


def test_a_pass_that_fails_leaves_nothing_behind(model, text):
    def fails(n, _):
        raise RuntimeError("another node's error")

    broken = model.clone()
    broken.set_model_attn2_output_patch(fails)
    with pytest.raises(RuntimeError, match="another node's"):
        sampled(keep_apart(broken, ()), *text)
    assert traces(model) == {name: (0, False) for name in traces(model)}


def test_regions_are_drawn_for_words_one_by_one(model):
    with pytest.raises(ConesError, match="2 regions are drawn for 1 words"):
        keep_apart(model, ("sks star",), drawn=LEFT)


def test_tokens_behind_the_text_have_no_bias(model, text):
    """As picture prompts add them to single layers."""

    def longer(n, context, value, _):
        more = torch.ones_like(context[:, :3])
        return n, torch.cat([context, more], 1), torch.cat([value, more], 1)

    masks = []

    def others(function, *args, **kwargs):
        masks.append(kwargs.get("mask"))
        return function(*args, **kwargs)

    patched = model.clone()
    patched.set_model_attn2_patch(longer)
    patched.model_options["transformer_options"]["optimized_attention_override"] = others
    sampled(keep_apart(patched, WORDS, drawn=LEFT), *text)
    biased = [mask for mask in masks if mask is not None]
    assert len(biased) == 4
    assert all(mask.shape == (2, 1, 64, 11) and not mask[..., 8:].any() and mask[..., 1].any() for mask in biased)
    assert biased[0].device == DEVICE
