"""Find Concept Neurons in process: node to file to picture, Cancel, the same ranking as diffusers, clear refusals."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask, multipliers, same_neurons
from cones_concept_neurons.cones_ops.reports.text import summary_text
from cones_concept_neurons.cones_ops.search.find import find_concept_neurons
from cones_concept_neurons.cones_ops.search.objective import Examples
from cones_concept_neurons.cones_ops.search.ranking import from_ranking
from cones_concept_neurons.cones_ops.search.settings import SearchSettings, recommended
from cones_concept_neurons.cones_ops.search.statistics_store import on_disk
from cones_concept_neurons.cones_ops.toy_world.bundle import load_pipeline
from cones_concept_neurons.nodes import apply, encode, find, masks, toy
from cones_concept_neurons.nodes.host import notices
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from cones_concept_neurons.nodes.host.search import (
    find as searching,
)
from cones_concept_neurons.nodes.host.search import (
    host_model as denoiser,
)
from cones_concept_neurons.nodes.host.search import (
    progress,
)
from cones_concept_neurons.nodes.host.search import (
    statistics_store as room,
)
from support.prompts import as_lists
from support.small_models import DEVICE

pytestmark = pytest.mark.slow
PROMPTS = ("a sks cat", "a cat")


@pytest.fixture(scope="module")
def inputs(checkpoint):
    """What the stock nodes would hand to the node: latents and two conditionings, all made in inference mode."""
    _, clip, vae = checkpoint
    with torch.inference_mode():
        images = toy.ConesToySubject.execute("sks", 3, 0).args[0]
        latents = {"samples": vae.encode(images)}
        subject, general = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in PROMPTS)
    return {"subject_latents": latents, "subject_conditioning": subject, "class_conditioning": general}


@pytest.fixture(autouse=True)
def few_held_out_draws(monkeypatch):
    monkeypatch.setattr(find, "recommended", lambda *choices: replace(recommended(*choices), held_out=8))


def run_find(model, inputs, **changes):
    widgets = {
        "identifier": "sks",
        "class_word": "cat",
        "method": "taylor",
        "targets": "text K+V",
        "density": 0.02,
        "steps": 2,
        "batch": 8,
        "prior_weight": 1.0,
        "seed": 0,
        "where": "everywhere",
    }
    with torch.inference_mode():
        return find.ConesFindConceptNeurons.execute(**as_lists(model=model, **{**inputs, **widgets, **changes}))


def weights(model):
    return {name: value.cpu().clone() for name, value in model.model.diffusion_model.named_parameters()}


def test_find_save_load_combine_apply(checkpoint, inputs):
    model = checkpoint[0]
    before = weights(model)
    mask, curve, report = run_find(model, inputs).args
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert isinstance(mask, ConceptMask)
    assert mask.density == pytest.approx(0.02, abs=1e-4)
    assert (mask.identifier, mask.class_word, mask.where) == ("sks", "cat", "everywhere")
    assert curve.ndim == 4 and curve.shape[-1] == 3 and 0 <= curve.min() < curve.max() <= 1
    assert report.startswith("NOT FOUND. Use more steps") and "attn2.to_k" in report  # of random weights

    _, name = masks.ConesSaveConceptMask.execute(mask, "people/my sks", "keep both").args
    _, second = masks.ConesSaveConceptMask.execute(mask, "people/my sks", "keep both").args
    _, third = masks.ConesSaveConceptMask.execute(mask, "people/my sks", "overwrite").args
    assert (name, second, third) == tuple(f"people/my sks{n}.safetensors" for n in ("", "-2", ""))
    assert {name, second} <= set(masks.mask_names())
    assert masks.ConesLoadConceptMask.validate_inputs(name) is True
    assert "no concept mask" in masks.ConesLoadConceptMask.validate_inputs("people/other.safetensors")
    assert masks.ConesLoadConceptMask.fingerprint_inputs(name) == masks.ConesLoadConceptMask.fingerprint_inputs(name)
    loaded, identifier, class_word = masks.ConesLoadConceptMask.execute(name).args
    assert (identifier, class_word) == ("sks", "cat")
    assert loaded.fingerprint == mask.fingerprint and loaded.count == mask.count

    (same,) = masks.ConesCombineConceptMasks.execute("union", mask_1=loaded, mask_2=mask).args
    assert same.count == mask.count
    (none,) = masks.ConesCombineConceptMasks.execute("difference", mask_1=loaded, mask_2=mask, mask_5=mask).args
    assert none.count == 0

    (patched,) = apply.ConesApplyConceptMasks.execute(model, mask_1=loaded, strength_1=1.0, enabled_1=True).args
    assert len(patched.patches) == len(loaded.names)
    (off,) = apply.ConesApplyConceptMasks.execute(
        model, mask_1=loaded, enabled_1=False, mask_3=mask, strength_3=0.0
    ).args
    assert off.patches == {} and off.patches_uuid == model.patches_uuid
    with pytest.raises(ConesError, match="mask_2 is empty: the difference of several masks left no"):
        apply.ConesApplyConceptMasks.execute(model, mask_2=none)
    with pytest.raises(ConesError, match="nothing to save"):
        masks.ConesSaveConceptMask.execute(none, "none", "keep both")


def test_a_lora_before_find_does_not_change_the_fingerprint(checkpoint, inputs):
    model = checkpoint[0]
    plain = run_find(model, inputs, steps=1).args[0]
    name = next(iter(plain.shapes))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{name}": ("diff", (torch.ones(plain.shapes[name]),))})
    after_lora = run_find(patched, inputs, steps=1).args[0]
    assert after_lora.fingerprint == plain.fingerprint
    apply_masks(model, [(after_lora, 1.0)])


def test_cancel_stops_within_a_step_and_gives_the_model_back(checkpoint, inputs, monkeypatch):
    model = checkpoint[0]
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])  # whatever another test has left loaded
    before = weights(model)
    steps = []

    def press_cancel(value, total, preview, **_):
        steps.append(value)
        comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_find(model, inputs, steps=50)
    assert len(steps) == 1
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert not any("forward" in module.__dict__ for module in model.model.modules())


def test_what_a_search_will_need_is_told_before_its_first_step(checkpoint, inputs, monkeypatch):
    model, said = checkpoint[0], []
    monkeypatch.setattr(notices, "tell", lambda text, *level: said.append(text))
    monkeypatch.setattr(progress, "tell", lambda text: said.append(text))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, *_, **__: said.append(value))
    report = run_find(model, inputs).args[2]
    size = run_find(model, inputs).args[0].size
    assert re.search(r" s for 2 steps and \d+ s to choose the density; memory beyond .* for the backward pass", said[0])
    assert f"{12 * size / 1e6:,.0f} MB for the statistics" in said[0]
    assert isinstance(said[1], int) and f"expected before it: {said[0]}" in report
    assert [text for text in said if isinstance(text, str)][-1] == report.splitlines()[0]  # in the estimate's place


def test_statistics_that_memory_cannot_hold_are_kept_on_disk(checkpoint, inputs, monkeypatch, tmp_path):
    model, said = checkpoint[0], []
    plain = run_find(model, inputs, steps=3).args[0]
    size, asked = 12 * plain.size, []
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda *given, **more: (size, size) if "torch_free_too" in more else size,
    )
    monkeypatch.setattr(denoiser, "ON_DEVICE_LIMIT", 0)  # on a GPU as for a large model
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))
    monkeypatch.setattr(notices, "tell", lambda text, *level: said.append(text))
    monkeypatch.setattr(room, "on_disk", lambda folder: asked.append(folder) or on_disk(folder))
    found = run_find(model, inputs, steps=3).args[0]
    assert same_neurons(found, plain)
    words = (
        f"keeps {size / 1e6:,.0f} MB of statistics, and {size / 1e6:,.0f} MB of memory are free: they are kept on disk"
    )
    assert words in said[0] and asked == [tmp_path / "temp"]
    assert [file.suffix for file in asked[0].iterdir() if file.suffix != ".png"] == []  # the preview, no statistics

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=size // 2))
    with pytest.raises(ConesError, match=r"MB of disk in .*; search text V or text K alone, which need half, or start"):
        run_find(model, inputs, steps=3)


@pytest.mark.parametrize("method", ["taylor", "learned"])
def test_the_diffusers_host_finds_the_same_neurons(path, checkpoint, inputs, method):
    from cones_concept_neurons.cones_ops.hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod

    pipeline = load_pipeline(path)
    settings = SearchSettings(method, steps=3, batch=8, held_out=8, seed=1)
    hidden = pipeline.encode_text(list(PROMPTS))
    nobody = torch.zeros(1, hidden.shape[1], dtype=torch.bool)
    other = DiffusersModel(pipeline.unet, alphas_cumprod(pipeline.schedule), "v_prediction", "text K+V", "everywhere")
    latents = inputs["subject_latents"]["samples"].clone()
    expected = find_concept_neurons(
        other,
        Examples(latents, [TextTokens(hidden[0], nobody)]),
        Examples(latents, [TextTokens(hidden[1], nobody)]),
        identifier="sks",
        class_word="cat",
        settings=settings,
        density=0.01,
        distill=True,
    )
    task = searching.SearchInputs(
        inputs["subject_latents"], inputs["subject_conditioning"], None, inputs["class_conditioning"], "sks", "cat"
    )
    with torch.inference_mode():
        found = searching.search(checkpoint[0], task, "text K+V", settings, 0.01, 1.0)
    assert sorted(found.scores) == sorted(expected.scores)
    assert found.history == pytest.approx(expected.history, rel=1e-4)
    assert found.curve.losses == pytest.approx(expected.curve.losses, rel=1e-4)
    assert found.mask.fingerprint == expected.mask.fingerprint
    ours, theirs = from_ranking(found.scores, 0.01), from_ranking(expected.scores, 0.01)
    both = sum(len(set(i.tolist()) & set(theirs.index[n].tolist())) for n, i in ours.index.items() if n in theirs.index)
    assert both >= 0.99 * ours.count > 0


CAPTIONS = ("a sks cat", "a sks cat on the left and a mug on the right", "a robot and a sks cat")


def captioned(clip, captions=CAPTIONS, concepts="sks cat", rule="identifier + class word"):
    with torch.inference_mode():
        lines = "\n".join(captions)
        return encode.ConesEncodePrompt.execute(clip, lines, concepts, rule, prompt_per_line=True).args[0]


@pytest.mark.parametrize(
    ("captions", "rule", "told"),
    [
        (CAPTIONS[1:2], "identifier + class word", 'identifier + class word, at "sks cat", 2, 3 of 64'),
        (CAPTIONS, "phrase", 'phrase, at "sks cat", 2, 3 of 64; "sks cat on the left", 2, 3, 4, 5, 6 of 64'),
    ],
)
def test_the_diffusers_host_finds_the_same_neurons_at_own_tokens(path, checkpoint, inputs, captions, rule, told):
    from cones_concept_neurons.cones_ops.laboratory import sampling

    pipeline = load_pipeline(path)
    settings = SearchSettings("learned", steps=3, batch=8, held_out=8, seed=1, sparsity=0.0)
    latents = inputs["subject_latents"]["samples"].clone()
    words = {"identifier": "sks", "class_word": "cat"}
    expected = find_concept_neurons(
        sampling.model_of(pipeline),
        Examples(latents, sampling.conditioning(pipeline, captions, [tuple(words.values())], [rule])),
        **words,
        settings=settings,
        density=0.01,
    )
    prompts = captioned(checkpoint[1], captions, rule=rule)
    task = searching.SearchInputs(inputs["subject_latents"], prompts, None, None, *words.values())
    before = weights(checkpoint[0])
    with torch.inference_mode():
        found = searching.search(checkpoint[0], task, "text K+V", settings, 0.01, 1.0, where="own tokens")
    assert all(torch.equal(value, before[name]) for name, value in weights(checkpoint[0]).items())
    assert found.mask.where == expected.mask.where == "own tokens"
    assert found.history == pytest.approx(expected.history, rel=1e-4)
    assert found.curve.losses == pytest.approx(expected.curve.losses, rel=1e-4)
    ours, theirs = from_ranking(found.scores, 0.01), from_ranking(expected.scores, 0.01)
    both = sum(len(set(i.tolist()) & set(theirs.index[n].tolist())) for n, i in ours.index.items() if n in theirs.index)
    assert both >= 0.99 * ours.count > 0
    assert found.mask.provenance["prior"] == "none"
    assert found.mask.provenance["own_tokens"].startswith(told)
    assert told in summary_text(found)


def test_own_tokens_need_prompts_that_tell_them(checkpoint, inputs):
    model, clip, _ = checkpoint

    def refused(match, model=model, **changes):
        with pytest.raises(ConesError, match=match):
            run_find(model, {**inputs, **changes}, where="own tokens")

    refused("comes from CLIP Text Encode")
    other = captioned(clip, concepts="zwx robot")
    refused(r'no own tokens of "sks cat".*looked for zwx robot', subject_conditioning=other)
    refused("no own tokens", subject_conditioning=captioned(clip, ("a sks cat", "a cat", "a sks cat")))
    refused("the subject conditioning is empty", subject_conditioning=[])
    refused("2 prompts for 3 pictures", subject_conditioning=captioned(clip, CAPTIONS[:2]))
    masked = run_find(model, {**inputs, "subject_conditioning": captioned(clip)}, where="own tokens").args[0]
    applied = apply_masks(model, [(masked, 1.0)])
    refused("before Apply Concept Masks", model=applied, subject_conditioning=captioned(clip))
    with pytest.raises(ConesError, match="do not read the text"):
        some = {**inputs, "subject_conditioning": captioned(clip)}
        run_find(model, some, where="own tokens", targets="text + self K+V")


def test_a_mask_gives_the_same_denoised_latents_in_both_hosts(path, checkpoint):
    from cones_concept_neurons.cones_ops.hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod

    pipeline = load_pipeline(path)
    model, clip, _ = checkpoint
    other = DiffusersModel(pipeline.unet, alphas_cumprod(pipeline.schedule), "v_prediction", "text K+V", "everywhere")
    generator = torch.Generator().manual_seed(2)
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in other.base_weights.items()}
    mask = from_ranking(scores, 0.3)
    x, sigma = torch.randn(1, 48, 8, 8, generator=generator) * 3, torch.tensor([3.0])
    hidden = pipeline.encode_text([PROMPTS[0]])[0]
    with torch.inference_mode(), other.multiplied(multipliers(mask)):
        expected = other.denoise(x, sigma, [TextTokens(hidden, torch.zeros(1, len(hidden), dtype=torch.bool))])
    patched = apply_masks(model, [(mask, 1.0)])
    with torch.inference_mode():
        context = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPTS[0]))[0][0]
        x, sigma, context = (one.to(DEVICE) for one in (x, sigma, context))
        comfy.model_management.load_models_gpu([patched])
        denoised = patched.model.apply_model(x, sigma, c_crossattn=context).cpu()
        comfy.model_management.load_models_gpu([model])
        vanilla = model.model.apply_model(x, sigma, c_crossattn=context).cpu()
    assert (denoised - expected).abs().max() < 1e-3
    assert (denoised - vanilla).abs().max() > 1e-2


def test_bad_input_is_named(checkpoint, inputs):
    model = checkpoint[0]
    with pytest.raises(ConesError, match="class_conditioning is not connected"):
        run_find(model, {**inputs, "class_conditioning": None})
    with pytest.raises(ConesError, match='class word ""'):
        run_find(model, inputs, class_word=" ")
    with pytest.raises(ConesError, match="all zero"):
        run_find(model, {**inputs, "subject_latents": {"samples": torch.zeros(1, 48, 8, 8)}})
    with pytest.raises(ConesError, match="batch of 2 prompts for 3 pictures"):
        text = inputs["subject_conditioning"][0]
        run_find(model, {**inputs, "subject_conditioning": [[torch.cat([text[0]] * 2), text[1]]]})
    with pytest.raises(ConesError, match="works on"):
        run_find(model, {**inputs, "class_latents": {"samples": torch.ones(1, 4, 8, 8)}})
    fused = model.clone()
    fused.model = type("Other", (), {"diffusion_model": torch.nn.Linear(2, 2)})()
    with pytest.raises(ConesError, match="known as a K or V projection that reads the text"):
        run_find(fused, inputs)
    assert parameter_shapes(model)
