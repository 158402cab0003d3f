"""Tune Concept Masks Together in process: the same steps as the diffusers host, slots, refusals; pictures laid out."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask, same_neurons
from cones_concept_neurons.cones_ops.masks.fingerprint import fingerprint
from cones_concept_neurons.cones_ops.search.joint import tune_concept_masks, tuning
from cones_concept_neurons.cones_ops.search.ranking import from_ranking
from cones_concept_neurons.cones_ops.toy_world.bundle import load_pipeline
from cones_concept_neurons.nodes import encode, pictures, toy, tune
from cones_concept_neurons.nodes.host.search import tune as host_tuning
from cones_concept_neurons.nodes.host.search.progress import SearchProgress
from support.prompts import as_lists

pytestmark = pytest.mark.slow
SKS, ZWX = ("sks", "cat"), ("zwx", "robot")
BOTH = "a sks cat on the left and a zwx robot on the right"


@pytest.fixture(scope="module")
def pipeline(path):
    return load_pipeline(path)


@pytest.fixture(autouse=True)
def few_held_out_draws(monkeypatch):
    monkeypatch.setattr(tune, "tuning", lambda seed=0: replace(tuning(seed), held_out=8))


def random_mask(pipeline, concept, seed, where="own tokens"):
    from cones_concept_neurons.cones_ops.laboratory.sampling import model_of

    weights = model_of(pipeline).base_weights
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    fields = {"identifier": concept[0], "class_word": concept[1], "where": where}
    return from_ranking(scores, 0.05, **fields, fingerprint=fingerprint(weights))


def prompts(clip, text, *concepts):
    with torch.inference_mode():
        named = ", ".join(" ".join(one) for one in concepts)
        return encode.ConesEncodePrompt.execute(clip, text, concepts=named, prompt_per_line=True).args[0]


@pytest.fixture(scope="module")
def inputs(checkpoint, pipeline):
    """Two concepts as a user would connect them, with pictures of both in one."""
    _, clip, vae = checkpoint
    given = {}
    with torch.inference_mode():
        subjects = [toy.ConesToySubject.execute(word, 2, 0).args[0] for word in ("sks", "zwx")]
        laid, captions = pictures.ConesLayPictures.execute(
            0.6, images_1=subjects[0], phrase_1="a sks cat", images_2=subjects[1], phrase_2="a zwx robot"
        ).args
        for k, (concept, some) in enumerate(zip((SKS, ZWX), subjects, strict=True), 1):
            given |= {
                f"mask_{k}": random_mask(pipeline, concept, k),
                f"latents_{k}": {"samples": vae.encode(some)},
                f"conditioning_{k}": prompts(clip, f"a {' '.join(concept)}", concept),
            }
        given |= {
            "together_latents": {"samples": vae.encode(laid)},
            "together_conditioning": prompts(clip, captions, SKS, ZWX),
        }
    return given


def run_tune(model, inputs, **changes):
    with torch.inference_mode():
        widgets = {"steps": 3, "batch": 4, "prior_weight": 1.0, "seed": 1}
        return tune.ConesTuneConceptMasks.execute(**as_lists(model=model, **{**inputs, **widgets, **changes})).args


def test_the_diffusers_host_takes_the_same_joint_steps(checkpoint, pipeline, inputs, monkeypatch):
    from cones_concept_neurons.cones_ops.laboratory import sampling
    from cones_concept_neurons.cones_ops.search.objective import Examples

    def examples(latents, texts):
        rows = sampling.conditioning(pipeline, texts, [SKS, ZWX], ["identifier + class word"] * 2)
        return Examples(latents["samples"].clone(), rows)

    captions = [
        *(BOTH, "a sks cat and a zwx robot"),
        *("a zwx robot and a sks cat", "a zwx robot on the left and a sks cat on the right"),
    ]
    settings = replace(tuning(1), steps=3, batch=4, held_out=8)
    expected = tune_concept_masks(
        sampling.model_of(pipeline, concepts=2),
        [inputs["mask_1"], inputs["mask_2"]],
        [examples(inputs["latents_1"], ["a sks cat"]), examples(inputs["latents_2"], ["a zwx robot"])],
        examples(inputs["together_latents"], captions),
        settings=settings,
    )
    seen = {}

    def keep(*given, **more):
        seen["result"] = tune_concept_masks(*given, **more)
        return seen["result"]

    monkeypatch.setattr(host_tuning, "tune_concept_masks", keep)
    model = checkpoint[0]
    before = {name: value.cpu().clone() for name, value in model.model.diffusion_model.named_parameters()}
    one, two, third, fourth, report = run_tune(model, inputs)
    found = seen["result"]
    assert all(torch.equal(value.cpu(), before[n]) for n, value in model.model.diffusion_model.named_parameters())
    assert not any("forward" in module.__dict__ for module in model.model.modules())
    assert found.history == pytest.approx(expected.history, rel=1e-4)
    assert (found.before, found.after) == pytest.approx((expected.before, expected.after), rel=1e-4)
    assert found.tuned == expected.tuned
    assert third is None and fourth is None and "3 joint steps on 2 masks" in report
    for ours, theirs in zip((one, two), expected.masks, strict=True):
        assert abs(ours.count - theirs.count) <= 0.01 * theirs.count
        shared = sum(len(set(i.tolist()) & set(theirs.index[name].tolist())) for name, i in ours.index.items())
        assert shared >= 0.99 * ours.count > 0


def test_everywhere_the_masks_act_as_their_union_and_need_class_prompts(checkpoint, pipeline, inputs):
    model, clip, _ = checkpoint
    plain = {k: v for k, v in inputs.items() if not k.startswith("mask")}
    masks = {f"mask_{k}": random_mask(pipeline, c, k, "everywhere") for k, c in ((1, SKS), (2, ZWX))}
    with pytest.raises(ConesError, match="class_conditioning is not connected"):
        run_tune(model, plain | masks)
    classes = prompts(clip, "a cat\na robot")
    found = run_tune(model, plain | masks, class_conditioning=classes)
    assert [mask.where for mask in found[:2]] == ["everywhere"] * 2
    assert "3 joint steps" in found[-1]


def test_slots_may_be_left_out_but_not_half_connected(checkpoint, inputs):
    model = checkpoint[0]
    moved = {k.replace("_2", "_4"): v for k, v in inputs.items()}
    first, second, third, fourth, _ = run_tune(model, moved, steps=1)
    assert second is None and third is None
    assert (first.identifier, fourth.identifier) == ("sks", "zwx")
    with pytest.raises(ConesError, match="latents_3 and conditioning_3 not connected"):
        run_tune(model, inputs, mask_3=inputs["mask_1"])
    with pytest.raises(ConesError, match="belong together"):
        run_tune(model, inputs, together_latents=None)


def test_what_cannot_be_tuned_together_is_named(checkpoint, pipeline, inputs):
    model, clip, _ = checkpoint
    mask: ConceptMask = inputs["mask_2"]

    def refused(match, model=model, **changes):
        with pytest.raises(ConesError, match=match):
            run_tune(model, inputs, **changes)

    refused("act everywhere and own tokens", mask_2=replace(mask, where="everywhere"))
    refused('"zwx robot" was found on base weights 0000000000000000', mask_2=replace(mask, fingerprint="0" * 64))
    some = dict(list(mask.shapes.items())[:2])
    refused("zwx robot: searched in other weights", mask_2=ConceptMask({}, some, "zwx", "robot", "own tokens"))
    refused('no own tokens of "zwx robot"', conditioning_2=inputs["conditioning_1"])
    refused('no own tokens of "zwx robot"', together_conditioning=prompts(clip, "a sks cat", SKS))
    refused("3 prompts for 4 pictures", together_conditioning=prompts(clip, "\n".join([BOTH] * 3), SKS, ZWX))
    refused("two concepts at once", mask_2=replace(mask, identifier="sks", class_word="cat"),
            conditioning_2=inputs["conditioning_1"])  # fmt: skip


def test_masks_are_given_back_as_they_were_when_nothing_is_gained(checkpoint, inputs, monkeypatch):
    """A step too small for any entry to change sides leaves the joint loss as it was."""
    monkeypatch.setattr(tune, "tuning", lambda seed=0: replace(tuning(seed), held_out=8, rate=1e-9))
    first, second, _, _, report = run_tune(checkpoint[0], inputs, steps=1)
    assert report.startswith("NOT TUNED")
    assert first.provenance == inputs["mask_1"].provenance
    assert same_neurons(first, inputs["mask_1"]) and same_neurons(second, inputs["mask_2"])


def test_cancelled_joint_steps_resume_and_end_alike(checkpoint, inputs, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    whole = run_tune(checkpoint[0], inputs)
    steps = []
    report = SearchProgress.__call__

    def press_cancel(self, step):
        steps.append(step.step)
        comfy.model_management.interrupt_current_processing(len(steps) == 2)
        report(self, step)

    monkeypatch.setattr(SearchProgress, "__call__", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_tune(checkpoint[0], inputs)
    assert steps == [1, 2] and len(list((tmp_path / "cones-searches").iterdir())) == 1
    resumed = run_tune(checkpoint[0], inputs)
    assert steps == [1, 2, 3] and not list(tmp_path.iterdir())
    assert all(same_neurons(*pair) for pair in zip(resumed[:2], whole[:2], strict=True))


def test_pictures_are_laid_side_by_side_with_a_caption_each():
    red, blue = torch.zeros(2, 8, 8, 3), torch.zeros(1, 8, 8, 3)
    red[..., 0], blue[..., 2] = 1, 1
    images, captions = pictures.ConesLayPictures.execute(
        0.5, images_1=red, phrase_1="a red thing", images_2=blue, phrase_2=" a blue thing "
    ).args
    assert images.shape == (4, 8, 8, 3)
    assert torch.equal(images[0, :, :4], red[0, :, :4]) and torch.equal(images[2, :, :4], blue[0, :, :4])
    assert captions.splitlines()[2:] == [
        "a blue thing and a red thing",
        "a blue thing on the left and a red thing on the right",
    ]
    with pytest.raises(ConesError, match="images_2 has no phrase"):
        pictures.ConesLayPictures.execute(0.5, images_1=red, phrase_1="a", images_2=blue, phrase_2="")
