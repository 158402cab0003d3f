"""Sampling, measures and the positive control on a toy pipeline with random weights."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers.host_model import alphas_cumprod
from cones_ops.laboratory import baselines as control
from cones_ops.laboratory import measure, references
from cones_ops.laboratory.baselines import FineTuning, class_examples, fine_tune, subject_examples
from cones_ops.laboratory.gradient_guidance import GradientGuidance, single_tokens
from cones_ops.laboratory.judge import Judge, Reading
from cones_ops.laboratory.looks import attention_iou, sample_with_maps, true_place
from cones_ops.laboratory.sampling import Apart, competing_groups, conditioning, examples, model_of, sample, sigmas
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.toy_world.bundle import ToyPipeline, random_pipeline
from cones_ops.toy_world.subjects import subject_named
from cones_ops.toy_world.world import Thing

pytestmark = pytest.mark.slow  # the whole file: it builds models

PAIR = (("sks", "star"), ("zwx", "heart"))


@pytest.fixture(scope="module")
def pipeline() -> ToyPipeline:
    return random_pipeline(0, (32, 64))


def half_mask(pipeline: ToyPipeline, seed: int, where: str, identifier: str, class_word: str) -> ConceptMask:
    generator = torch.Generator().manual_seed(seed)
    weights = model_of(pipeline, "everywhere").base_weights
    index = {n: (torch.rand(w.numel(), generator=generator) < 0.5).nonzero().flatten() for n, w in weights.items()}
    return ConceptMask(index, {n: tuple(w.shape) for n, w in weights.items()}, identifier, class_word, where)


def test_a_picture_depends_on_its_own_seed_only(pipeline: ToyPipeline) -> None:
    prompts = ["a star", "a red heart", "a sks star"]
    together = sample(pipeline, prompts, seeds=[5, 6, 7], steps=3)
    assert together.shape == (3, 3, 64, 64) and together.min() >= 0 and together.max() <= 1
    assert torch.equal(together, sample(pipeline, prompts, seeds=[5, 6, 7], steps=3))
    alone = sample(pipeline, prompts[1:2], seeds=[6], steps=3)
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    with pytest.raises(ConesError, match="one seed per prompt"):
        sample(pipeline, prompts, seeds=[1])


def test_own_tokens_change_only_prompts_with_the_identifier(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "star"), 1.0)]
    prompts = ["a star", "a sks star", "a zwx heart"]
    vanilla, masked = sample(pipeline, prompts, steps=3), sample(pipeline, prompts, masks, steps=3)
    assert [torch.equal(a, b) for a, b in zip(vanilla, masked, strict=True)] == [True, False, True]
    assert torch.equal(sample(pipeline, prompts, steps=3), vanilla)


def test_a_second_mask_does_not_touch_the_firsts_prompt(pipeline: ToyPipeline) -> None:
    first = half_mask(pipeline, 1, "own tokens", "sks", "star")
    second = half_mask(pipeline, 2, "own tokens", "zwx", "heart")
    alone = sample(pipeline, ["a sks star"], [(first, 1.0)], steps=3)
    both = sample(pipeline, ["a sks star"], [(second, 1.0), (first, 1.0)], steps=3)
    assert torch.equal(alone, both)


def test_a_mask_everywhere_changes_every_prompt(pipeline: ToyPipeline) -> None:
    prompts = ["a star", "a sks star"]
    masked = sample(pipeline, prompts, [(half_mask(pipeline, 1, "everywhere", "sks", "star"), 1.0)], steps=3)
    assert not any(torch.equal(a, b) for a, b in zip(sample(pipeline, prompts, steps=3), masked, strict=True))


def test_noise_levels_go_from_the_schedules_end_to_zero(pipeline: ToyPipeline) -> None:
    levels = sigmas(model_of(pipeline), 4)
    assert len(levels) == 5 and levels[-1] == 0 and (levels[1:] < levels[:-1]).all()
    assert torch.allclose(levels[0] ** 2, (1 / alphas_cumprod(pipeline.schedule).float()[-1]) - 1, rtol=1e-3)


def test_own_tokens_of_a_prompt(pipeline: ToyPipeline) -> None:
    rows = conditioning(pipeline, ["a sks star on a black background", "a star"], [("sks", "star")])
    assert rows[0].own[0].nonzero().flatten().tolist() == [2, 3]
    assert not rows[1].own.any()


def test_tokens_of_other_things_compete_with_those_of_concepts(pipeline: ToyPipeline) -> None:
    text = "a sks star and a star on a grey background"
    groups = competing_groups(pipeline, [("sks", "star")], [text], ["star", "background"])
    assert groups.shape == (2, 3, 48) and not groups[1].any()
    assert [group.nonzero().flatten().tolist() for group in groups[0]] == [[2, 3], [6], [10]]


def test_pictures_with_concepts_kept_apart(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "star"), 1.0)]
    prompts = ["a sks star and a circle", "a circle"]
    masked = sample(pipeline, prompts, masks, steps=4)
    apart = sample(pipeline, prompts, masks, steps=4, apart=Apart(probe=1))
    assert not torch.equal(apart[0], masked[0]) and torch.allclose(apart[1], masked[1], atol=1e-4)
    assert torch.equal(sample(pipeline, prompts, masks, steps=4, apart=Apart(strength=0.0)), masked)


def test_gradients_move_the_latents_where_concepts_are_named(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, k, "own tokens", *words), 1.0) for k, words in enumerate(PAIR)]
    prompts = ["a sks star and a zwx heart", "a circle"]
    plain = sample(pipeline, prompts, masks, steps=2)
    for guidance in (GradientGuidance("attend_and_excite", 1.0), GradientGuidance("focus", 1.0)):
        moved = sample(pipeline, prompts, masks, steps=2, gradients=guidance)
        assert not torch.equal(moved[0], plain[0]) and torch.allclose(moved[1], plain[1], atol=1e-4)
    still = sample(pipeline, prompts, masks, steps=2, gradients=GradientGuidance("focus", 0.0))
    assert torch.allclose(still, plain, atol=1e-4)
    assert not any(parameter.grad is not None for parameter in pipeline.unet.parameters())


def test_single_tokens_of_groups() -> None:
    groups = torch.zeros(2, 2, 5, dtype=torch.bool)
    groups[0, 0, 1:3], groups[0, 1, 4] = True, True
    tokens, owners = single_tokens(groups)
    assert owners.tolist() == [[0, 0, 1], [-1, -1, -1]]
    assert tokens[0].nonzero().tolist() == [[0, 1], [1, 2], [2, 4]] and not tokens[1].any()


def test_maps_of_a_run_and_their_overlap_with_the_true_place(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "star"), 1.0)]
    pictures, maps = sample_with_maps(pipeline, ["a sks star", "a circle"], masks, ["circle"], steps=2)
    assert torch.equal(pictures, sample(pipeline, ["a sks star", "a circle"], masks, steps=2))
    assert maps.shape == (2, 2, 8, 8) and maps[0, 0].min() > 0 and maps[1, 1].min() > 0 and not maps[0, 1].any()
    thing = Thing("square", "red", "red", "plain")
    picture = torch.full((3, 64, 64), 0.5)
    picture[:, 8:24, 8:24] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    reading = Reading((("top left", thing),), "grey")
    place = true_place(picture, reading, thing)
    assert place is not None and place.sum() == 16 * 16 and place[8:24, 8:24].all()
    looks = torch.zeros(1, 8, 8)
    looks[0, 1:3, 1:3] = 1.0  # its four cells, enlarged: from pixel 8 - 3.2 on above 0.4 of the range
    assert attention_iou(looks, picture[None], [reading], thing)[0] == pytest.approx(256 / 324, abs=0.06)
    assert attention_iou(looks, picture[None], [Reading((), "grey")], thing) == []


def test_fine_tuning_lowers_the_loss_of_a_copy(pipeline: ToyPipeline) -> None:
    subject = subject_named("sks")
    state = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    losses: list[float] = []
    prior = class_examples(pipeline, subject, 2)
    how = FineTuning(30, batch=4, on_step=lambda _, loss: losses.append(loss))
    tuned = fine_tune(pipeline, subject_examples(pipeline, subject), prior, how)
    assert len(losses) == 30 and sum(losses[-5:]) < sum(losses[:5])
    changed = [n for n, tensor in tuned.unet.state_dict().items() if not torch.equal(tensor, state[n])]
    assert len(changed) == len(model_of(pipeline).weights)
    assert all("attn2.to_" in name for name in changed)
    assert all(torch.equal(tensor, state[n]) for n, tensor in pipeline.unet.state_dict().items())


def test_measures_count_what_the_judge_says(pipeline: ToyPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, other = subject_named("sks"), subject_named("zwx")
    prompts: list[str] = []
    blue = Thing("circle", "blue", "blue", "plain")

    def fake_sample(_: ToyPipeline, texts: list[str], *args: object, **kwargs: object) -> torch.Tensor:
        prompts[:] = texts
        return torch.zeros(len(texts), 3, 64, 64)

    def fake_read(_: Judge, pictures: torch.Tensor) -> list[Reading]:
        seen = Reading((("left", subject.thing), ("right", blue)), "black")
        return [seen, Reading((("left", other.thing), ("right", subject.thing)), "black")] + [Reading((), "grey")] * 2

    monkeypatch.setattr(measure, "sample", fake_sample)
    monkeypatch.setattr(measure, "read", fake_read)
    measuring = measure.Measuring(pipeline, Judge(), samples=4)
    shown = measure.measure(measuring, measure.subject_shown, subject)
    assert (shown.share, shown.standard_error) == (0.5, 0.25)
    assert prompts[1] == "a sks star on a white background"
    assert measure.measure(measuring, measure.second_object, subject).hits == (True, False, False, False)
    assert prompts[0] == "a sks star on the left and a blue plain circle on the right on a black background"
    assert measure.measure(measuring, measure.all_shown, (subject, other)).hits == (False, True, False, False)
    assert measure.measure(measuring, measure.class_leak, subject).prompt == "a star on a black background"
    assert measure.measure(measuring, measure.all_described, (subject, other)).hits == (False, True, False, False)


def test_other_methods_change_what_they_should_and_nothing_else(pipeline: ToyPipeline) -> None:
    subject = subject_named("sks")
    captions = [subject.prompt, f"{subject.prompt} on a grey background"]
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    subject_pictures = examples(pipeline, pictures, captions, [("sks", "star")])
    prior = examples(pipeline, pictures, ["a star"] * 2)
    state = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    table = pipeline.text_encoder.get_input_embeddings().weight.clone()
    how = FineTuning(2, 1e-2, batch=2)

    def changed(tuned: ToyPipeline) -> list[str]:
        return [n for n, tensor in tuned.unet.state_dict().items() if not torch.equal(tensor, state[n])]

    lora, numbers = control.lora(pipeline, subject_pictures, prior, how)
    assert changed(lora) and all(re.search(r"attn\d\.(to_[qkv]|to_out\.0)\.weight$", name) for name in changed(lora))
    per_layer = (sum(state[n].shape) for n in changed(lora))  # rank 4: 4 x (in + out)
    assert numbers == 4 * sum(per_layer)
    assert len(changed(control.dreambooth(pipeline, subject_pictures, prior, how))) > 0.9 * len(state)

    inverted = control.textual_inversion(pipeline, subject_pictures, captions, "sks", how)
    rows = (inverted.text_encoder.get_input_embeddings().weight != table).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [pipeline.vocabulary.words.index("sks")]

    own = control.fine_tune_own_tokens(pipeline, subject_pictures, subject, how)
    prompts = ["a star on a grey background", "a sks star on a grey background"]
    before = sample(pipeline, prompts, steps=2)
    after = sample(pipeline, prompts, steps=2, own_weights=own)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    assert not changed(pipeline) and torch.equal(pipeline.text_encoder.get_input_embeddings().weight, table)


def test_references_are_the_subject_alone_and_beside_other_classes(pipeline: ToyPipeline) -> None:
    subject, other = subject_named("qpd"), subject_named("sks")
    pictures, captions = references.references(pipeline, subject, beside=6)
    assert len(pictures) == len(captions) == 10
    assert sum(text.startswith("a qpd cross on a ") for text in captions) == 4
    beside = [text for text in captions if " and " in text]
    assert len(beside) == 6 and not any(text.count("cross") > 1 for text in beside)
    assert {text.startswith(subject.prompt) for text in beside} == {True, False}
    assert {" on the left and " in text for text in beside} == {True, False}  # with places and without
    crowd = references.references(pipeline, subject, beside=0, crowds=2)[1][4:]
    assert [text.count("a qpd cross") for text in crowd] == [1, 1]
    assert [text.count(" , ") for text in crowd] == [2, 3]  # three things, then four
    both, texts = references.together([subject, other])
    assert len(both) == 16 and texts[8] == "a qpd cross and a sks star on a black background"
    assert texts[0].startswith("a qpd cross on the left and a sks star on the right on a black")
    assert len(references.together([subject, other, subject_named("zwx")])[0]) == 24
