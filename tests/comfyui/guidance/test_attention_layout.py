"""Where pixels and text are in the attention of each family: what moves when one token or one pixel is changed."""

from __future__ import annotations

import pytest
import torch
from cones_concept_neurons.cones_ops.models.targets import part_shapes
from cones_concept_neurons.nodes.host.guidance import attention_layout
from cones_concept_neurons.nodes.host.guidance.keep_apart import keep_apart
from cones_concept_neurons.nodes.host.guidance.recording import settings_of
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from support.newer_families import FAMILIES
from support.small_families import model_of, prompt_of
from support.small_models import SKS, ZWX, sampled, small_model

JOINT = ("SD 3.5", "Flux", "Chroma", "Flux 2", "Lumina 2", "Z-Image", "AuraFlow")
UNETS = ("SD 1.5", "SDXL")
CROSS = (*UNETS, "Wan 2.1", "Cosmos-Predict2")
QUICK = ("Flux", "Z-Image")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in (*JOINT, *CROSS, "Qwen-Image")]


def loaded(name):
    with torch.inference_mode():
        if name == "Qwen-Image":
            return small_model("qwen"), (16, 1, 8, 8)
        return model_of(FAMILIES[name]), FAMILIES[name].latent


def prompt(name, changed=None):
    """Two concepts, at tokens 1, 2 and 5; changed: a token that is another one."""
    text, extra = prompt_of(FAMILIES["SD 1.5" if name == "Qwen-Image" else name])[0]
    key = next(key for key, value in extra.items() if hasattr(value, "positions"))
    text = text.clone()
    if changed is not None:
        text[0, changed] += 1.0
    positions = type(extra[key])(text, {SKS: torch.tensor([1, 2]), ZWX: torch.tensor([5])}, extra[key].rules)
    return [[text, {**extra, key: positions}]]


def keys_of(monkeypatch, model, latent, positive, pixel=None):
    """K (S, anything) of the first attention that is announced, and its layout."""
    seen = []
    plain = attention_layout.layout_of

    def watch(*args):
        seen.append(plain(*args))
        return seen[-1]

    monkeypatch.setattr("cones_concept_neurons.nodes.host.guidance.apart_run.layout_of", watch)
    keys = []

    def others(function, *args, **kwargs):
        if seen and len(keys) < len(seen):
            query, key = args[:2]
            separate = kwargs.get("skip_reshape", False)
            keys.append(tuple((x[0].transpose(0, 1).flatten(1) if separate else x[0]).clone() for x in (query, key)))
        return function(*args, **kwargs)

    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = others
    if pixel is not None:
        clone.set_model_unet_function_wrapper(
            lambda call, inputs: call(moved(inputs["input"], pixel), inputs["timestep"], **inputs["c"])
        )
    sampled(keep_apart(clone, (), 0.0), positive, positive, shape=latent, rows=1, cfg=1.0)
    return seen[0], keys[0]


def moved(x, pixel):
    x = x.clone()
    x[..., pixel[0], pixel[1]] += 5.0
    return x


def largest_change(before, after):
    return int((before - after).abs().sum(dim=1).argmax())


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_of_a_familys_attention(name, monkeypatch):
    model, latent = loaded(name)
    layout, (query, key) = keys_of(monkeypatch, model, latent, prompt(name))
    _, (_, other_text) = keys_of(monkeypatch, model, latent, prompt(name, changed=5))
    _, (other_pixel, _) = keys_of(monkeypatch, model, latent, prompt(name), pixel=(latent[-2] - 1, 0))
    before = FAMILIES[name].before if name in FAMILIES else 0
    if name == "Flux 2":
        before = 0  # its 512 tokens are the text that the pass gets
    assert layout is not None and layout.joint == (name not in CROSS)
    assert largest_change(key, other_text) == layout.first_token + 5 + (504 if name == "Flux 2" else 0)
    assert layout.first_token == before
    if name in UNETS:  # convolutions and self-attention have spread the change by then
        return
    last_row = (layout.grid[0] - 1) * layout.grid[1]
    assert largest_change(query, other_pixel) == layout.first_pixel + last_row


@pytest.mark.parametrize("name", NAMES)
def test_concepts_are_kept_apart(name):
    model, latent = loaded(name)
    settings = {"shape": latent, "rows": 2, "steps": 2, "cfg": 1.0}
    apart = keep_apart(model, ())
    texts = prompt(name), prompt(name)
    before, after = sampled(model, *texts, **settings), sampled(apart, *texts, **settings)
    assert not torch.allclose(before, after, atol=1e-5)
    regions = settings_of(apart).recording.prompts[0].regions
    assert regions is not None and torch.equal(regions.sum(dim=1), torch.ones_like(regions[:, 0]))
    same = sampled(keep_apart(model, (), 0.0), *texts, **settings)
    assert torch.equal(same, before)


def test_the_block_that_is_read():
    flux = {f"double_blocks.{number}.txt_attn.qkv.weight": (24, 8) for number in range(19)}
    flux |= {f"single_blocks.{number}.linear1.weight": (56, 8) for number in range(38)}
    shapes = flux | part_shapes(flux)
    assert attention_layout.read_projections(shapes) == {"double_blocks.18.txt_attn.qkv.weight[8:16]"}
    assert len(attention_layout.read_projections(parameter_shapes(loaded("SD 1.5")[0]))) == 4
    names = [f"blocks.{number}.cross_attn.{role}.weight" for number in (10, 9) for role in "kv"]
    texts = attention_layout.text_projections(dict.fromkeys(names, (8, 8)))
    assert texts == ["blocks.9.cross_attn.k.weight", "blocks.10.cross_attn.k.weight"]
