"""Sampling, measures and the positive control on a toy pipeline with random weights."""

from __future__ import annotations

import re
from dataclasses import replace

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
from cones_ops.toy_world.captions import BACKGROUND_WORDS
from cones_ops.toy_world.drawing.scene import draw_all, empty
from cones_ops.toy_world.subjects import subject_named
from cones_ops.toy_world.world import BACKGROUNDS, KINDS, SIDE, Character, Scene

pytestmark = pytest.mark.slow  # the whole file: it builds models

PAIR = (("sks", "cat"), ("zwx", "robot"))


@pytest.fixture(scope="module")
def pipeline() -> ToyPipeline:
    return random_pipeline(0, (32, 64))


def half_mask(pipeline: ToyPipeline, seed: int, where: str, identifier: str, class_word: str) -> ConceptMask:
    generator = torch.Generator().manual_seed(seed)
    weights = model_of(pipeline, "everywhere").base_weights
    index = {n: (torch.rand(w.numel(), generator=generator) < 0.5).nonzero().flatten() for n, w in weights.items()}
    return ConceptMask(index, {n: tuple(w.shape) for n, w in weights.items()}, identifier, class_word, where)


def test_a_picture_depends_on_its_own_seed_only(pipeline: ToyPipeline) -> None:
    prompts = ["a cat", "a red robot", "a sks cat"]
    together = sample(pipeline, prompts, seeds=[5, 6, 7], steps=3)
    assert together.shape == (3, 3, SIDE, SIDE) and together.min() >= 0 and together.max() <= 1
    assert torch.equal(together, sample(pipeline, prompts, seeds=[5, 6, 7], steps=3))
    alone = sample(pipeline, prompts[1:2], seeds=[6], steps=3)
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    with pytest.raises(ConesError, match="one seed per prompt"):
        sample(pipeline, prompts, seeds=[1])


def test_own_tokens_change_only_prompts_with_the_identifier(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "cat"), 1.0)]
    prompts = ["a cat", "a sks cat", "a zwx robot"]
    vanilla, masked = sample(pipeline, prompts, steps=3), sample(pipeline, prompts, masks, steps=3)
    assert [torch.equal(a, b) for a, b in zip(vanilla, masked, strict=True)] == [True, False, True]
    assert torch.equal(sample(pipeline, prompts, steps=3), vanilla)


def test_a_second_mask_does_not_touch_the_firsts_prompt(pipeline: ToyPipeline) -> None:
    first = half_mask(pipeline, 1, "own tokens", "sks", "cat")
    second = half_mask(pipeline, 2, "own tokens", "zwx", "robot")
    alone = sample(pipeline, ["a sks cat"], [(first, 1.0)], steps=3)
    both = sample(pipeline, ["a sks cat"], [(second, 1.0), (first, 1.0)], steps=3)
    assert torch.equal(alone, both)


def test_a_mask_everywhere_changes_every_prompt(pipeline: ToyPipeline) -> None:
    prompts = ["a cat", "a sks cat"]
    masked = sample(pipeline, prompts, [(half_mask(pipeline, 1, "everywhere", "sks", "cat"), 1.0)], steps=3)
    assert not any(torch.equal(a, b) for a, b in zip(sample(pipeline, prompts, steps=3), masked, strict=True))


def test_noise_levels_go_from_the_schedules_end_to_zero(pipeline: ToyPipeline) -> None:
    levels = sigmas(model_of(pipeline), 4)
    assert len(levels) == 5 and levels[-1] == 0 and (levels[1:] < levels[:-1]).all()
    assert torch.allclose(levels[0] ** 2, (1 / alphas_cumprod(pipeline.schedule).float()[-1]) - 1, rtol=1e-3)


def test_own_tokens_of_a_prompt(pipeline: ToyPipeline) -> None:
    rows = conditioning(pipeline, ["a sks cat in the snow", "a cat"], [("sks", "cat")])
    assert rows[0].own[0].nonzero().flatten().tolist() == [2, 3]
    assert not rows[1].own.any()


def test_tokens_of_other_things_compete_with_those_of_concepts(pipeline: ToyPipeline) -> None:
    text = "a sks cat and a cat on a grey background"
    groups = competing_groups(pipeline, [("sks", "cat")], [text], ["cat", "background"])
    assert groups.shape == (2, 3, 64) and not groups[1].any()
    assert [group.nonzero().flatten().tolist() for group in groups[0]] == [[2, 3], [6], [10]]


def test_pictures_with_concepts_kept_apart(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "cat"), 1.0)]
    prompts = ["a sks cat and a mug", "a mug"]
    masked = sample(pipeline, prompts, masks, steps=4)
    apart = sample(pipeline, prompts, masks, steps=4, apart=Apart(("mug",), probe=1))
    assert not torch.equal(apart[0], masked[0]) and torch.allclose(apart[1], masked[1], atol=1e-4)
    assert torch.equal(sample(pipeline, prompts, masks, steps=4, apart=Apart(("mug",), strength=0.0)), masked)


def test_gradients_move_the_latents_where_concepts_are_named(pipeline: ToyPipeline) -> None:
    masks = [(half_mask(pipeline, k, "own tokens", *words), 1.0) for k, words in enumerate(PAIR)]
    prompts = ["a sks cat and a zwx robot", "a mug"]
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
    masks = [(half_mask(pipeline, 1, "own tokens", "sks", "cat"), 1.0)]
    pictures, maps = sample_with_maps(pipeline, ["a sks cat", "a mug"], masks, ["mug"], steps=2)
    assert torch.equal(pictures, sample(pipeline, ["a sks cat", "a mug"], masks, steps=2))
    assert maps.shape == (2, 2, 8, 8) and maps[0, 0].min() > 0 and maps[1, 1].min() > 0 and not maps[0, 1].any()
    character, other = subject_named("sks").character, subject_named("hta").character
    picture = empty("paper")
    picture[:, 12:36, 12:36] = picture[:, 80:90, 80:90] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    reading = Reading("four", (character, other, other, other), "paper")
    place = true_place(picture, reading, character)  # without what stands at the bottom right
    assert place is not None and place.sum() == 24 * 24 and place[12:36, 12:36].all()
    looks = torch.zeros(1, 8, 8)
    looks[0, 1:3, 1:3] = 1.0  # its four cells, enlarged: from pixel 12 - 1.2 on above 0.4 of the range
    assert attention_iou(looks, picture[None], [reading], character)[0] == pytest.approx(24**2 / 26**2, abs=0.06)
    assert attention_iou(looks, picture[None], [Reading("one", (other,), "paper")], character) == []


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
    blue = Character("mug", "blue", "none", "white", "dots", "first")
    nobody = replace(blue, kind="?", colour="?")

    def fake_sample(_: ToyPipeline, texts: list[str], *args: object, **kwargs: object) -> torch.Tensor:
        prompts[:] = texts
        return torch.zeros(len(texts), 3, SIDE, SIDE)

    def fake_read(_: Judge, pictures: torch.Tensor) -> list[Reading]:
        pairs = (subject.character, blue), (other.character, subject.character)
        return [*(Reading("two", pair, "meadow") for pair in pairs), *[Reading("one", (nobody,), "paper")] * 2]

    monkeypatch.setattr(measure, "sample", fake_sample)
    monkeypatch.setattr(measure, "read", fake_read)
    measuring = measure.Measuring(pipeline, Judge(), samples=4)
    shown = measure.measure(measuring, measure.subject_shown, subject)
    assert (shown.share, shown.standard_error) == (0.5, 0.25)
    assert prompts[1] == "a drawing of a sks cat on a beach"
    assert measure.measure(measuring, measure.second_object, subject).hits == (True, False, False, False)
    assert prompts[0] == "a blue mug to the right of a sks cat in a meadow"
    assert measure.measure(measuring, measure.all_shown, (subject, other)).hits == (False, True, False, False)
    assert measure.measure(measuring, measure.class_leak, subject).prompt == "just a cat in a meadow"
    assert measure.measure(measuring, measure.all_described, (subject, other)).hits == (False, True, False, False)


def test_other_methods_change_what_they_should_and_nothing_else(pipeline: ToyPipeline) -> None:
    subject = subject_named("sks")
    captions = [subject.prompt, f"{subject.prompt} on a beach"]
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    subject_pictures = examples(pipeline, pictures, captions, [("sks", "cat")])
    prior = examples(pipeline, pictures, ["a cat"] * 2)
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
    prompts = ["a cat on a beach", "a sks cat on a beach"]
    before = sample(pipeline, prompts, steps=2)
    after = sample(pipeline, prompts, steps=2, own_weights=own)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    assert not changed(pipeline) and torch.equal(pipeline.text_encoder.get_input_embeddings().weight, table)


def test_references_are_the_subject_alone_and_beside_other_kinds(pipeline: ToyPipeline) -> None:
    subject, other = subject_named("qpd"), subject_named("sks")
    pictures, captions = references.references(pipeline, subject, beside=12)
    assert len(pictures) == len(captions) == 18
    assert captions[:6] == [f"a qpd rocket {BACKGROUND_WORDS[ground]}" for ground in BACKGROUNDS]
    kinds = [[word for word in text.split() if word in KINDS] for text in captions[6:]]
    assert all(len(named) == 2 and named.count("rocket") == 1 for named in kinds)
    assert all("a qpd rocket" in text for text in captions)
    assert {named[0] == "rocket" for named in kinds} == {True, False}
    assert {"on the left" in text for text in captions[6:]} == {True, False}  # with places and without
    crowd = references.references(pipeline, subject, beside=0, crowds=2)[1][6:]
    assert [text.count("a qpd rocket") for text in crowd] == [1, 1]
    assert [sum(word in KINDS for word in text.split()) for text in crowd] == [3, 4]
    both, texts = references.together([subject, other])
    assert len(both) == 20 and texts[0] == "a qpd rocket and a sks cat in a meadow"
    assert "a sks cat on the left and a qpd rocket on the right in a meadow" in texts
    (scene,) = draw_all([Scene("two", (subject.character, other.character), "meadow")])
    assert (both[0] - scene).abs().mean() < 0.1  # where the scene has them
    assert len(references.together([subject, other, subject_named("zwx")])[0]) == 30
