"""Masks at own tokens while the host samples: K and V as dense algebra has them, and nothing else touched."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from cones_concept_neurons.cones_ops.masks.concept_mask import union
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX
from cones_concept_neurons.nodes.host.text.token_positions import KEY
from support.small_models import (
    CPU,
    DEVICE,
    DYNAMIC,
    POSITIVE,
    SKS,
    ZWX,
    encode,
    mask_of,
    recording,
    sampled,
    small_unet,
    traces,
    warnings_in,
)

try:
    from comfy.quant_ops import QUANT_ALGOS
except ImportError:
    QUANT_ALGOS = {}

NOBODY, NEGATIVE = {}, {SKS: [4]}
PLAIN = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
QUICK = ("fp32", "fp8")
KINDS = [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in (*PLAIN, *sorted(QUANT_ALGOS))]
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def effective(model, name, dtype):
    """The weight (out, in) that the layer of a loaded model multiplies with, seen from outside: its answer to units."""
    module = model.model.diffusion_model.get_submodule(name.removesuffix(".weight"))
    with torch.inference_mode():
        return module(torch.eye(module.weight.shape[1], dtype=dtype, device=DEVICE)).T.float().cpu()


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["no lora", "lora before", "lora after"])
@pytest.mark.parametrize("memory", ["full", "lowvram"])
@pytest.mark.parametrize("kind", KINDS)
def test_k_and_v_equal_dense_algebra(kind, memory, lora, low_vram):
    if memory == "lowvram":
        low_vram()
    dtype = PLAIN.get(kind, torch.float32 if DEVICE == CPU else torch.bfloat16)  # which some kernels for GPUs need
    with torch.inference_mode():  # as the host loads models
        model = small_unet(dtype, "" if kind in PLAIN else kind)
    compute = model.model.get_dtype_inference()
    within = ROUNDING[compute]
    if DYNAMIC and kind == "fp8" and lora != "no lora":
        within = 2**-4  # a LoRA on fp8 is exact in the first call, and rounded to fp8 in the host's copy for later ones
    masks = [mask_of(model, SKS, 1), mask_of(model, ZWX, 2)]
    name = masks[0].names[0]
    patch = {PREFIX + name: ("diff", (torch.randn(masks[0].shapes[name], generator=torch.Generator().manual_seed(3)),))}
    if lora != "no lora":
        vanilla_model = model.clone()
        vanilla_model.add_patches(patch, 0.05)
    else:
        vanilla_model = model
    applied = apply_masks(vanilla_model if lora == "lora before" else model, [(masks[0], 1.0), (masks[1], 0.5)])
    if lora == "lora after":
        applied.add_patches(patch, 0.05)

    text = encode(), encode(NEGATIVE, seed=1)
    vanilla_clone, before = recording(vanilla_model)
    try:
        sampled(vanilla_clone, *text)
    except ValueError as error:
        if DEVICE == CPU:
            raise
        pytest.skip(f"the host cannot sample with {kind} on this GPU: {error}")
    weights = {name: effective(vanilla_clone, name, compute) for name in masks[0].names}
    clone, after = recording(applied)
    sampled(clone, *text)
    assert traces(model) == {name: (0, False) for name in traces(model)}

    assert sorted(before) == sorted(after) == masks[0].names
    for name, (x, y) in after.items():
        x0, y0 = before[name]
        assert torch.equal(x, x0)
        own = torch.zeros(y.shape[:2], dtype=torch.bool)
        parts = text_rows(x, text)
        for rows, concept, mask, strength in (
            (parts[0], SKS, masks[0], 1.0), (parts[0], ZWX, masks[1], 0.5), (parts[1], SKS, masks[0], 1.0)
        ):  # fmt: skip
            shut = torch.zeros_like(weights[name]).flatten()
            shut[mask.index[name]] = weights[name].flatten()[mask.index[name]] * strength
            shut = shut.reshape(weights[name].shape)
            for row in rows:
                for position in (POSITIVE if rows is parts[0] else NEGATIVE)[concept]:
                    own[row, position] = True
                    expected = y0[row, position].float() - shut @ x[row, position].float()
                    close(y[row, position].float(), expected, y0, within)
                    if kind in PLAIN:  # the same in one multiplication
                        close(y[row, position].float(), (weights[name] - shut) @ x[row, position].float(), y0, within)
        assert torch.equal(y[~own], y0[~own])  # every other token of every row: the same bits
        assert own.sum() == 2 * 4 + 2 * 1


def text_rows(x, text):
    """Which rows of a batch hold the positive and which the negative text."""
    rows = []
    for entry in text:
        rows.append([r for r in range(len(x)) if torch.equal(x[r].float(), entry[0][0][0].to(x.dtype).float())])
    assert sorted(rows[0] + rows[1]) == list(range(len(x)))
    return rows


def close(found, expected, scale, within):
    assert (found - expected).abs().max() <= within * scale.float().abs().max()


@pytest.fixture(scope="module")
def masks(model):
    concepts = (SKS, ZWX, ("qpd", "cross"), ("vbn", "circle"))
    return [(mask_of(model, concept, seed), 1.0) for seed, concept in enumerate(concepts)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_prompts_without_the_words_are_bit_identical(model, masks, count):
    plain = encode(NOBODY), encode(NOBODY, seed=1)
    sampled(model, *plain, steps=3)  # on GPUs a process's first pictures differ from later ones, without masks too
    assert torch.equal(sampled(model, *plain, steps=3), sampled(apply_masks(model, masks[:count]), *plain, steps=3))
    named = encode(), encode(NOBODY, seed=1)
    assert not torch.equal(sampled(model, *named, steps=3), sampled(apply_masks(model, masks[:count]), *named, steps=3))
    assert not model.patches and not model.wrappers and "cones_own_tokens" not in str(model.model_options)


@pytest.mark.slow
def test_later_steps_use_what_the_first_has_computed(model, masks, monkeypatch):
    from cones_concept_neurons.nodes.host.apply import products, token_hooks

    calls = []
    original = products.shut_parts
    monkeypatch.setattr(products, "shut_parts", lambda *args: calls.append(args[0]) or original(*args))
    applied, text = apply_masks(model, masks[:2]), (encode(), encode(NEGATIVE, seed=1))
    kept = sampled(applied, *text, steps=4)
    assert sorted(calls) == sorted([*masks[0][0].names, *masks[0][0].names])  # once per text, not per step
    monkeypatch.setattr(token_hooks, "forget_what_changed", lambda call: forget(call))

    def forget(call):
        call.computed.products = {}
        call.computed.texts = {own.uuid: own.of(call.text)[0] for own in call.own}

    assert torch.equal(kept, sampled(applied, *text, steps=4))


@pytest.mark.slow
def test_any_order_in_one_node_or_a_chain(model, masks):
    given = [(masks[0][0], 0.3), (mask_of(model, SKS, 9), 0.7), (masks[1][0], 1.0)]  # two of them on the same tokens
    text = encode(), encode(NOBODY, seed=1)
    expected = sampled(apply_masks(model, given), *text)
    assert torch.equal(expected, sampled(apply_masks(model, given[::-1]), *text))
    chained = model
    for one in given:
        chained = apply_masks(chained, [one])
    assert torch.equal(expected, sampled(chained, *text))
    both = [(masks[0][0], 1.0), (mask_of(model, SKS, 9), 1.0)]
    one = sampled(apply_masks(model, [(union(both[0][0], both[1][0]), 1.0)]), *text)  # keeps the concept's words
    assert torch.equal(sampled(apply_masks(model, both), *text), one)


def test_texts_of_different_length_are_repeated_by_the_host(model, masks):
    short, long, name = encode(), encode(NEGATIVE, seed=1, tokens=16), masks[0][0].names[0]
    clone, before = recording(model)
    sampled(clone, short, long, rows=1)
    clone, after = recording(apply_masks(model, masks[:2]))
    sampled(clone, short, long, rows=1)
    row = next(r for r in range(2) if torch.equal(after[name][0][r, :8], short[0][0][0]))
    changed = (before[name][1] != after[name][1]).any(-1)
    assert changed[row].nonzero().flatten().tolist() == [1, 2, 5, 6, 9, 10, 13, 14]
    assert changed[1 - row].nonzero().flatten().tolist() == [4]


@pytest.mark.slow
def test_a_plain_prompt_is_told_once_per_run(model, masks, caplog):
    plain = [[encode()[0][0], {}]]
    assert torch.equal(
        sampled(apply_masks(model, masks[:1]), plain, plain, steps=3), sampled(model, plain, plain, steps=3)
    )
    (told,) = warnings_in(caplog)
    assert "sks star" in told and "Encode Prompt with Concepts" in told
    caplog.clear()
    sampled(apply_masks(model, masks[:3]), encode(), plain, steps=3)
    (told,) = warnings_in(caplog)
    assert "qpd cross" in told and "no prompt contains its words" in told


def test_cancel_and_errors_leave_nothing_behind(model, masks):
    def fail(executor, *args, **kwargs):
        assert any(module._forward_hooks for module in executor.class_obj.modules())
        raise comfy.model_management.InterruptProcessingException

    applied = apply_masks(model, masks[:1])
    applied.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fail)
    clean = traces(model)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(applied, encode(), encode(NOBODY, seed=1))
    assert traces(model) == clean and not any(hooks for hooks, _ in clean.values())


def test_a_phrase_mask_whose_prompt_marks_less_says_so(model, masks, caplog):
    ((found, _),) = masks[:1]
    owning = [(replace(found, own_words="phrase"), 1.0)]
    text = encode(), encode(NOBODY, seed=1)
    sampled(apply_masks(model, owning), *text)
    (said,) = warnings_in(caplog)
    assert 'Concepts: "sks star" was found with own_tokens "phrase", but a prompt marks' in said
    caplog.clear()
    for entry in text[0]:
        entry[1][KEY] = replace(entry[1][KEY], rules={SKS: "phrase"})
    sampled(apply_masks(model, owning), *text)
    assert warnings_in(caplog) == []
