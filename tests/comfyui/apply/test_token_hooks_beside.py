"""Masks at own tokens beside other nodes on the same model: attention patches, ControlNet, hooks, extra passes."""

from __future__ import annotations

from dataclasses import replace

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.ops
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX
from support.small_models import (
    DEVICE,
    POSITIVE,
    SKS,
    UNET,
    ZWX,
    all_weights,
    encode,
    fill,
    mask_of,
    recording,
    sampled,
    small_unet,
    warnings_in,
)

pytestmark = pytest.mark.slow  # the whole file: it builds models

BLOCK = ("input", 1)


@pytest.fixture(scope="module")
def masks(model):
    return [(mask_of(model, SKS, 1), 1.0), (mask_of(model, ZWX, 2), 1.0)]


@pytest.fixture
def text():
    return encode(), encode({}, seed=1)


def changed(before, after, name):
    """(row, token) pairs whose K or V is another one."""
    return [tuple(one) for one in (before[name][1] != after[name][1]).any(-1).nonzero().tolist()]


def own_in(x, text):
    """(row, token) pairs that POSITIVE says are own, in the rows of x (B, L, D) that hold the text."""
    first = text[0][0][0]
    rows = [r for r in range(len(x)) if torch.equal(x[r, : len(first)], first)]
    return [(r, p) for r in rows for p in sorted([*POSITIVE[SKS], *POSITIVE[ZWX]])]


def both(model, masks, text, **settings):
    clone, before = recording(model)
    sampled(clone, *text, **settings)
    clone, after = recording(apply_masks(model, masks))
    pictures = sampled(clone, *text, **settings)
    return before, after, pictures


def test_an_attention_patch_that_adds_tokens(model, masks, text):
    """As picture prompts do it: tokens behind the text, other ones in every step."""

    def longer(n, context, value, extra_options):
        more = torch.full((len(context), 3, context.shape[2]), float(extra_options["sigmas"][0])).to(context)
        return n, torch.cat([context, more], 1), torch.cat([value, more], 1)

    patched = model.clone()
    patched.set_model_attn2_patch(longer)
    before, after, _ = both(patched, masks, text, steps=2)
    for name in masks[0][0].names:
        assert after[name][0].shape[1] == 11
        assert changed(before, after, name) == own_in(after[name][0][:, :8], text[0])


def test_an_attention_patch_that_puts_other_text_in_a_layer(model, masks, text, caplog):
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, context, value, _: (n, context, value * 2.0))  # V reads another text
    before, after, _ = both(patched, masks, text, steps=2)
    for name in masks[0][0].names:
        expected = own_in(after[name][0], text[0]) if ".to_k." in name else []
        assert changed(before, after, name) == expected
    (warning,) = warnings_in(caplog)
    assert "other text" in warning


def coupled(model, *regions):
    """A clone with attention couple as custom nodes make it: rows that read each region's own text, and their mean."""

    def couple(n, context, value, extra_options):
        texts = [context, *(region.to(context).expand_as(context) for region in regions)]
        return torch.cat([n] * len(texts)), torch.cat(texts), torch.cat(texts)

    clone = model.clone()
    clone.set_model_attn2_patch(couple)
    clone.set_model_attn2_output_patch(lambda n, _: torch.stack(n.chunk(1 + len(regions))).mean(0))
    return clone


@pytest.mark.parametrize("concepts", [{}, {SKS: POSITIVE[SKS]}, POSITIVE])
def test_attention_couple_is_one_warning_that_names_native_regions(model, masks, text, concepts, caplog):
    """The base prompt names none, one or all of the concepts that the regions' texts name."""
    patched = coupled(model, encode({}, seed=3)[0][0], encode({}, seed=4)[0][0])
    before, after, _ = both(patched, masks, (encode(concepts), text[1]), steps=2)
    assert all(not changed(before, after, name) for name in masks[0][0].names)
    (warning,) = warnings_in(caplog)
    assert "attention couple" in warning and "Conditioning (Set Area) or (Set Mask)" in warning
    idle = " or ".join(f'"{" ".join(concept)}"' for concept in (SKS, ZWX) if concept not in concepts)
    assert warning.startswith(f"Write {idle} in a prompt: " if idle else "Use ComfyUI's own regions")


def test_an_attention_replacement_sees_the_masked_k_and_v(model, masks, text):
    seen = []

    def replacement(q, k, v, extra_options):
        seen.append((k.clone(), v.clone()))
        return q

    patched = model.clone()
    patched.set_model_attn2_replace(replacement, "input", 1)
    sampled(patched, *text)
    (k0, v0), *_ = seen
    seen.clear()
    sampled(apply_masks(patched, masks), *text)
    (k, v), *_ = seen
    own = {token for _, token in (k != k0).any(-1).nonzero().tolist()}
    assert own == {token for _, token in (v != v0).any(-1).nonzero().tolist()} == {1, 2, 5, 6}


def test_control_nets_see_the_text_as_it_was(model, masks, text):
    """Their own K and V are not masked; the model's are."""
    config = {key: value for key, value in UNET.items() if key != "out_channels"}
    with all_weights():
        network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    fill(network, 5)
    control = comfy.controlnet.ControlNet(network, load_device=DEVICE, manual_cast_dtype=None)
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 0.5)
    guided = [[text[0][0][0], {**text[0][0][1], "control": control}]]
    seen = []
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    handle = network.get_submodule(name).register_forward_hook(lambda _, x, y: seen.append(y.clone()))
    before, after, pictures = both(model, masks, (guided, text[1]))
    handle.remove()
    assert torch.equal(seen[0], seen[-1])
    for one in masks[0][0].names:
        assert changed(before, after, one) == own_in(after[one][0], text[0])
    assert not torch.equal(pictures, sampled(apply_masks(model, masks), *text))


def test_weight_hooks_with_keyframes(model, masks, text):
    """A LoRA of one conditioning whose strength changes on the way: the weight in force now is what is shut."""
    name = masks[0][0].names[0]
    delta = torch.randn(masks[0][0].shapes[name], generator=torch.Generator().manual_seed(4)) / 16
    hooks = comfy.hooks.create_hook_lora({f"{PREFIX}{name.removesuffix('.weight')}.diff": delta}, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(strength=-2.0, start_percent=0.5))
    hooks.set_keyframes_on_hooks(frames)
    hooked = comfy.hooks.set_hooks_for_conditioning(text[0], hooks)
    before, after, _ = both(model, masks, (hooked, text[1]), steps=4, cfg=1.0)
    weight = model.model.diffusion_model.get_parameter(name).detach().cpu() - 2.0 * delta  # of the last step
    shut = torch.zeros_like(weight).flatten()
    shut[masks[0][0].index[name]] = weight.flatten()[masks[0][0].index[name]]
    x, y = after[name]
    expected = before[name][1][:, 1] - x[:, 1] @ shut.reshape(weight.shape).T
    assert torch.allclose(y[:, 1], expected, atol=1e-4)
    assert changed(before, after, name) == own_in(x, text[0])


def test_extra_passes_of_guidance_nodes(model, masks, text):
    """Perturbed attention runs the positive conditioning once more, alone."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    run = getattr(PerturbedAttentionGuidance, "execute", None) or PerturbedAttentionGuidance().patch
    guided = run(apply_masks(model, masks), 3.0)
    guided = getattr(guided, "args", guided)[0]
    clone, seen = recording(guided)
    with_masks = sampled(clone, *text)
    name = masks[0][0].names[0]
    assert len(seen[name][0]) == 2  # the last call is the extra pass: the positive's two rows
    plain, before = recording(run_plain(run, model))
    sampled(plain, *text)
    assert changed(before, seen, name) == own_in(seen[name][0], text[0])
    assert not torch.equal(with_masks, sampled(apply_masks(model, masks), *text))


def run_plain(run, model):
    given = run(model, 3.0)
    return getattr(given, "args", given)[0]


def test_a_node_that_rearranges_the_batch_is_refused(model, masks, text):
    """Tiles, say: every conditioning once per tile, in turn, where the host has each conditioning's rows together."""

    def tiled(apply_model, given):
        turn = torch.tensor([0, 2, 1, 3])
        conds = {key: one[turn] if torch.is_tensor(one) else one for key, one in given["c"].items()}
        return apply_model(given["input"][turn], given["timestep"].expand(4), **conds)[turn]

    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(tiled)
    plain = sampled(wrapped, *text)
    assert torch.allclose(plain, sampled(model, *text), atol=1e-4)
    with pytest.raises(ConesError, match="rearranges the batch"):
        sampled(apply_masks(wrapped, masks), *text)


def test_a_concept_in_the_negative_prompt(model, masks, text):
    before, after, _ = both(model, masks, (text[1], text[0]))
    for name in masks[0][0].names:
        assert changed(before, after, name) == own_in(after[name][0], text[0])


def test_masks_everywhere_and_at_own_tokens_together(model, masks, text):
    everywhere = (replace(masks[1][0], where="everywhere"), 1.0)
    before, after, _ = both(apply_masks(model, [everywhere]), masks[:1], text)
    name = masks[0][0].names[0]
    assert [token for _, token in changed(before, after, name)] == 2 * POSITIVE[SKS]
    clone, mixed = recording(apply_masks(model, [masks[0], everywhere]))
    sampled(clone, *text)
    assert all(torch.equal(mixed[n][1], after[n][1]) for n in after)


def test_a_compiled_model_is_refused(masks, text):
    with torch.inference_mode():
        model = small_unet()
    compiled = apply_masks(model, masks)
    set_torch_compile_wrapper(model=compiled, backend="eager")
    with pytest.raises(ConesError, match="compile"):
        sampled(compiled, *text)
    sampled(compiled, text[1], text[1])  # where no mask acts, it may stay compiled
    modules = model.clone()
    modules.add_object_patch("diffusion_model.middle_block", torch.compile(model.model.diffusion_model.middle_block))
    with pytest.raises(ConesError, match="compile"):
        sampled(apply_masks(modules, masks), *text)


def test_what_has_no_own_tokens_is_refused(model, masks):
    mask = masks[0][0]
    name = mask.names[0].replace("attn2", "attn1")
    shapes = {name: (256, 256)}
    with pytest.raises(ConesError, match="do not read the text"):
        apply_masks(model, [(replace(mask, shapes=shapes, index={name: torch.tensor([3])}), 1.0)])
    with pytest.raises(ConesError, match="no identifier"):
        apply_masks(model, [(replace(mask, identifier=""), 1.0)])
