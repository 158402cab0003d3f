"""Concept masks on a model: exact zeros, bit-exact vanilla at strength 0, any order, patches kept, clear refusals."""

from __future__ import annotations

import itertools
import logging

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask, empty
from cones_concept_neurons.cones_ops.masks.fingerprint import fingerprint
from cones_concept_neurons.cones_ops.models.targets import select_targets
from cones_concept_neurons.nodes.host.apply import weight_patch as adapter
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.apply.sparse_entries import MaskEntries
from cones_concept_neurons.nodes.host.apply.weight_patch import SparseMask, SparseMaskFn
from cones_concept_neurons.nodes.host.parameters import PREFIX, base_weight, parameter_shapes
from support.masks import random_mask
from support.small_models import DEVICE, DYNAMIC

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        DYNAMIC,
        reason="with dynamic VRAM weights are patched only when they are used: test_memory_modes.py looks there",
    ),
]


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint[0]


@pytest.fixture(scope="module")
def shapes(model):
    every = parameter_shapes(model)
    return {name: every[name] for name in select_targets(every)}


@pytest.fixture(scope="module")
def print_of_base(model, shapes):
    return fingerprint({name: base_weight(model, PREFIX + name) for name in shapes})


@pytest.fixture
def masks(shapes, print_of_base):
    """Three masks that overlap a good deal."""
    return [random_mask(shapes, seed, 0.3, f"id{seed}", fingerprint=print_of_base) for seed in range(3)]


def loaded_weights(patcher, shapes):
    """The weights the model samples with, after a load by the host."""
    with torch.inference_mode():  # as when a prompt is run
        comfy.model_management.load_models_gpu([patcher])
    return {name: comfy.utils.get_attr(patcher.model, PREFIX + name).cpu().clone() for name in shapes}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_shut_entries_are_zero_and_no_other_bit_changes(model, shapes, masks):
    vanilla = loaded_weights(model, shapes)
    shut = loaded_weights(apply_masks(model, [(masks[0], 1.0)]), shapes)
    for name in shapes:
        expected = vanilla[name].clone().flatten()
        expected[masks[0].index[name]] = 0
        assert torch.equal(shut[name].flatten(), expected)
    assert same(vanilla, loaded_weights(model, shapes))


def test_strength_zero_no_masks_and_empty_masks_add_nothing(model, shapes, masks):
    for given in ([], [(masks[0], 0.0)], [(empty(shapes), 1.0)]):
        clone = apply_masks(model, given)
        assert clone is not model and clone.model is model.model
        assert clone.patches == model.patches and clone.patches_uuid == model.patches_uuid


def test_half_strength_halves(model, shapes, masks):
    vanilla = loaded_weights(model, shapes)
    half = loaded_weights(apply_masks(model, [(masks[0], 0.5)]), shapes)
    name = next(iter(shapes))
    at = masks[0].index[name]
    assert torch.equal(half[name].flatten()[at], vanilla[name].flatten()[at] * 0.5)


def test_any_order_in_one_node_or_a_chain_gives_the_same_bits(model, shapes, masks):
    given = list(zip(masks, (0.3, 0.7, 0.45), strict=True))
    expected = loaded_weights(apply_masks(model, given), shapes)
    for order in itertools.permutations(given):
        assert same(expected, loaded_weights(apply_masks(model, order), shapes))
    for order in itertools.permutations(given):
        chained = model
        for one in order:
            chained = apply_masks(chained, [one])
        assert same(expected, loaded_weights(chained, shapes))
        assert all(len(chained.patches[PREFIX + name]) == 1 for name in shapes)
    name = next(iter(shapes))
    both = torch.tensor(sorted(set(masks[0].index[name].tolist()) & set(masks[1].index[name].tolist())))
    only = both[~torch.isin(both, masks[2].index[name])]
    vanilla = loaded_weights(model, shapes)
    assert torch.allclose(expected[name].flatten()[only], vanilla[name].flatten()[only] * 0.3 * 0.7)


def test_a_chain_leaves_the_model_it_came_from_alone(model, shapes, masks):
    first = apply_masks(model, [(masks[0], 1.0)])
    before = loaded_weights(first, shapes)
    apply_masks(first, [(masks[1], 1.0)])
    assert same(before, loaded_weights(first, shapes))
    assert not model.patches


def test_lora_before_or_after_still_works(model, shapes, masks):
    vanilla = loaded_weights(model, shapes)
    name = next(iter(shapes))
    lora = {PREFIX + name: ("diff", (torch.full(shapes[name], 0.25),))}
    at = masks[0].index[name]

    before = model.clone()
    before.add_patches(lora)
    masked = loaded_weights(apply_masks(before, [(masks[0], 1.0)]), shapes)[name].flatten()
    assert (masked[at] == 0).all()
    rest = torch.ones_like(masked, dtype=torch.bool).index_fill_(0, at, False)
    exact = comfy.model_management.lora_compute_dtype(DEVICE) == torch.float32  # in which the host adds LoRAs
    assert torch.allclose(masked[rest], (vanilla[name].flatten() + 0.25)[rest], atol=0 if exact else 1e-3)

    after = apply_masks(model, [(masks[0], 1.0)])
    after.add_patches(lora)
    assert (loaded_weights(after, shapes)[name].flatten()[at] == 0.25).all()


def test_offloaded_weights_are_shut_when_they_are_used(model, shapes, masks, low_vram):
    low_vram()
    clone = apply_masks(model, [(masks[0], 1.0)])
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([clone])
    assert clone.model.model_lowvram
    name = next(iter(shapes))
    module = clone.model.diffusion_model.get_submodule(name.removesuffix(".weight"))
    x = torch.eye(shapes[name][1], device=DEVICE)
    with torch.inference_mode():
        used = module(x).cpu().T.flatten()
    assert (used[masks[0].index[name]] == 0).all() and (used != 0).any()


def test_the_patch_survives_the_hosts_way_of_moving_it(masks, shapes):
    """Newer hosts rebuild an adapter as type(v)(v.loaded_keys, moved weights)."""
    name = next(iter(shapes))
    patch = SparseMask.folded([MaskEntries(masks[0], name, 0, 0.25)], shapes[name])
    moved = type(patch)(patch.loaded_keys, tuple(v.clone() if torch.is_tensor(v) else v for v in patch.weights))
    weight = torch.ones(shapes[name])
    result = moved.calculate_weight(weight, name, 1.0, 1.0, None, None)
    assert result is weight and moved.calculate_shape(name) is None
    assert torch.equal(weight.flatten()[masks[0].index[name]].unique(), torch.tensor([0.25]))
    weaker = moved.calculate_weight(torch.ones(shapes[name]), name, 0.5, 1.0, None, None)
    assert float(weaker.min()) == 0.625
    with pytest.raises(ConesError, match="bypass"):
        moved.bypass_forward(None, weight)
    with pytest.raises(ConesError, match="shape"):
        moved.calculate_weight(torch.ones(2, 2), name, 1.0, 1.0, None, None)


def test_quantised_weights_get_a_wrapper(model, shapes, masks, monkeypatch):
    name = next(iter(shapes))
    monkeypatch.setattr(adapter, "is_quantised", lambda clone, key: key == PREFIX + name)
    first = apply_masks(model, [(masks[0], 1.0)])
    both = apply_masks(first, [(masks[1], 0.5)])
    assert PREFIX + name not in both.patches
    assert len(both.weight_wrapper_patches[PREFIX + name]) == 1
    assert len(first.weight_wrapper_patches[PREFIX + name][0].entries) == 1
    assert not model.weight_wrapper_patches
    wrapper = both.weight_wrapper_patches[PREFIX + name][0]
    assert isinstance(wrapper, SparseMaskFn) and wrapper.move_to("cpu") > 0
    weight = torch.ones(shapes[name])
    out = wrapper(weight)
    assert (weight == 1).all() and (out.flatten()[masks[0].index[name]] == 0).all()
    loaded_weights(both, shapes)
    module = both.model.diffusion_model.get_submodule(name.removesuffix(".weight"))
    with torch.inference_mode():
        assert (module(torch.eye(shapes[name][1], device=DEVICE)).cpu().T.flatten()[masks[0].index[name]] == 0).all()
    loaded_weights(model, shapes)


def test_wrong_architecture_names_what_is_missing(model, shapes):
    fewer = {f"gone.{i}.weight": (2, 2) for i in range(7)} | shapes
    with pytest.raises(ConesError, match=r"gone\.0\.weight.*7 in all"):
        apply_masks(model, [(ConceptMask({"gone.1.weight": torch.tensor([0])}, fewer), 1.0)])


def test_other_shapes_are_named(model, shapes):
    name = next(iter(shapes))
    other = {**shapes, name: (3, 5)}
    with pytest.raises(ConesError, match=r"mask \(3, 5\), model.*find the concept again on this model"):
        apply_masks(model, [(ConceptMask({name: torch.tensor([1])}, other), 1.0)])


def test_another_base_is_refused_and_both_fingerprints_named(model, shapes, masks, print_of_base, caplog):
    name = next(iter(shapes))
    stranger = ConceptMask({name: torch.tensor([1])}, shapes, identifier="sks", fingerprint="ab" * 32)
    with pytest.raises(ConesError, match=rf"abababababababab.*{print_of_base[:16]}"):
        apply_masks(model, [(stranger, 1.0)])
    with caplog.at_level(logging.WARNING, logger="cones"):
        applied = apply_masks(model, [(stranger, 1.0)], apply_anyway=True)
    assert "abababababababab" in caplog.text and print_of_base[:16] in caplog.text
    assert PREFIX + name in applied.patches


def test_the_base_is_recognised_while_patches_are_loaded(model, masks):
    loaded = apply_masks(model, [(masks[0], 1.0)])
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([loaded])
    both = apply_masks(loaded, [(masks[1], 1.0)])  # no complaint about the fingerprint
    assert both.patches.keys() == {PREFIX + name for name in masks[0].shapes}
