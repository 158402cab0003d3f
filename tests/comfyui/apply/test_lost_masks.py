"""Merging and saving a model with masks that are no part of its weights says what is lost."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import comfy.utils
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple, ModelSave
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX
from support.small_models import SKS, encode, mask_of, sampled, small_unet, warnings_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other():
    with torch.inference_mode():
        return small_unet(seed=1)


@pytest.fixture(scope="module")
def mask(model):
    return mask_of(model, SKS, 1)


def merged(first, second, ratio):
    return ModelMergeSimple().merge(first, second, ratio)[0]


def test_a_merge_that_takes_the_weights_of_a_masked_model_says_that_masks_are_lost(model, other, mask, caplog):
    applied = apply_masks(model, [(mask, 1.0)])
    assert merged(other, applied.clone().clone(), 0.5).patches.keys() == merged(other, model, 0.5).patches.keys()
    applied.get_key_patches()  # as the host asks for its own hooks
    (warning,) = warnings_in(caplog)
    assert warning.startswith("Merge the models first, then use Apply Concept Masks: merging loses concept masks")


def test_a_merge_into_a_masked_model_keeps_masks_whole_and_says_so(model, other, mask, caplog):
    text = encode(), encode({}, seed=1)
    before = merged(apply_masks(model, [(mask, 1.0)]), other, 0.0)  # nothing of the masked model's own weights
    assert not warnings_in(caplog)
    behind = apply_masks(merged(model, other, 0.0), [(replace(mask, fingerprint=""), 1.0)])
    assert torch.equal(sampled(behind, *text), sampled(behind, *text)) and not warnings_in(caplog)
    assert torch.equal(sampled(before, *text), sampled(behind, *text))
    (warning,) = warnings_in(caplog)
    assert "with their whole strength, whatever the ratio" in warning


def test_a_saved_model_is_without_its_masks_and_says_so(model, mask, tmp_path, caplog):
    node = ModelSave()
    node.output_dir = str(tmp_path)
    node.save(apply_masks(model, [(mask, 1.0)]).clone(), "masked")
    (warning,) = warnings_in(caplog)
    assert warning.startswith("Save the masks too, with Save Concept Mask: the saved file does not hold concept masks")
    (path,) = tmp_path.glob("masked*.safetensors")
    saved = comfy.utils.load_torch_file(str(path))
    plain = model.model.state_dict()
    assert all(torch.equal(saved[f"model.{PREFIX}{name}"], plain[PREFIX + name].cpu()) for name in mask.names)


def test_masks_that_are_part_of_the_weights_need_no_warning(model, other, mask, tmp_path, caplog):
    applied = apply_masks(model, [(replace(mask, where="everywhere"), 1.0)])
    merged(other, applied, 0.5)
    node = ModelSave()
    node.output_dir = str(tmp_path)
    node.save(applied, "masked")
    assert not warnings_in(caplog)


def test_masks_on_quantised_weights_are_no_part_of_them(mask, caplog):
    with torch.inference_mode():
        packed = small_unet(torch.bfloat16, "float8_e4m3fn")
        applied = apply_masks(packed, [(replace(mask, where="everywhere", fingerprint=""), 1.0)])
        assert applied.state_dict_for_saving().keys() == packed.state_dict_for_saving().keys()
    assert len(warnings_in(caplog)) == 1 and "masks on quantised weights" in caplog.text


def test_a_masked_model_is_released_as_soon_as_nobody_holds_it(model, mask):
    gc.disable()
    try:
        reference = weakref.ref(apply_masks(model, [(mask, 1.0)]))
        assert reference() is None
    finally:
        gc.enable()
