"""The benchmark of several subjects: its sentences, what counts as bleeding, and the file of results."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from PIL import Image

from cones_ops.errors import ConesError
from cones_ops.images.collages import SEARCH_FORMS
from cones_ops.laboratory.judge import Judge, Reading
from cones_ops.laboratory.quality.inputs import SMOKE, World, inputs_of
from cones_ops.laboratory.sampling import model_of, sample
from cones_ops.laboratory.several import cells, results
from cones_ops.laboratory.several.figure import draw_looks, prompt_of, untouched_and_masked
from cones_ops.laboratory.several.forms import PLACES, TWELVE, UNSEEN, bleeds, plain_things, prompts_of
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.mask_file import save_mask
from cones_ops.toy_world.bundle import random_pipeline
from cones_ops.toy_world.subjects import subject_named
from cones_ops.toy_world.world import Thing

STAR = subject_named("sks")  # purple and yellow, striped


def test_twelve_forms_of_which_four_are_for_judging_only() -> None:
    assert len({form.name for form in TWELVE}) == 12 and len(UNSEEN) == 4
    assert not {form.form for form in UNSEEN} & set(SEARCH_FORMS)
    assert prompts_of(["a sks star"] * 8, ["a circle"] * 8, PLACES)[::4] == [
        "a sks star on the left and a circle on the right on a black background",
        "a circle on the left and a sks star on the right on a black background",
    ]
    assert prompts_of(["a"] * 16, ["b"] * 16, UNSEEN)[12] == "b left and a right"


def test_plain_things_are_of_other_classes() -> None:
    assert plain_things(STAR, 5)[:2] == ["a circle", "a square"] and "a star" not in plain_things(STAR, 40)


@pytest.mark.parametrize(
    ("thing", "taken"),
    [
        (Thing("circle", "purple", "yellow", "halved"), True),
        (Thing("circle", "yellow", "purple", "halved"), True),
        (Thing("circle", "purple", "red", "halved"), False),
        (Thing("star", "purple", "yellow", "striped"), False),
    ],
)
def test_a_thing_of_another_class_in_both_colours_has_taken_them(thing: Thing, taken: bool) -> None:
    assert bleeds(Reading((("left", thing),), "grey"), STAR) is taken


def test_results_are_means_over_cells(tmp_path: Path) -> None:
    def cell(name: str, **figures: float) -> dict[str, object]:
        return {"name": name, "figures": {key: {"value": value} for key, value in figures.items()}}

    pairs = [
        cell("pair/hta+bnk/0", together=0.5, together_regions=1.0, unseen_regions=0.75),
        cell("pair/hta+bnk/1", together=1.0, together_regions=1.0, unseen_regions=0.25),
        cell("tuned/hta+bnk+olr/0", together_regions=0.25),
        cell("bleeding/hta/untouched", bleeding=0.0),
        cell("guided/hta+bnk/0", attend_and_excite=0.25, focus=0.5),
    ]
    other = tmp_path / "regions.json"
    ratio = {"value": 1.01, "standard_error": 0.1, "n": 3}
    other.write_text(json.dumps({"sampling_ratio": {"unet": ratio, "joint_attention": ratio}, "more": 1}))
    figures = results.results(pairs, [other])
    assert figures["pairs"]["apart"] == {"value": 0.75, "standard_error": 0.25, "n": 2}
    assert figures["pairs"]["apart_regions_unseen_forms"]["value"] == 0.5
    assert figures["pairs"]["tuned"] == {"value": None, "standard_error": None, "n": 0}
    assert figures["triples"]["tuned_regions"]["value"] == 0.25 and figures["bleeding"]["untouched"]["n"] == 1
    assert figures["sampling_ratio"]["unet"] == ratio and "more" not in figures
    assert figures["other_guidance"]["focus"]["value"] == 0.5 and figures["attention_iou"]["n"] == 0
    other.write_text("no")
    with pytest.raises(ConesError, match="not a JSON file"):
        results.results(pairs, [other])


def test_every_cell_is_planned_once() -> None:
    names = cells.plan()
    assert len(set(names)) == len(names) == 126
    assert names.index("pair/hta+bnk/0") < names.index("alone/hta/1") < names.index("tuned/hta+bnk/0")


def test_where_words_look_without_the_mask_and_with_it(tmp_path: Path) -> None:
    world = World(random_pipeline(0, (32, 64)), Judge(), replace(SMOKE, sampling_steps=2), tmp_path)
    weights = model_of(world.pipeline).base_weights
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    index = {name: torch.arange(0, prod(shape), 2) for name, shape in shapes.items()}
    mask = ConceptMask(index, shapes, "sks", "star", "own tokens", own_words="phrase")
    save_mask(mask, inputs_of(world, STAR, 0).kept("learned-own tokens"))
    (_, untouched, before), (_, masked, after) = untouched_and_masked(world, STAR, 0)
    assert torch.equal(untouched, sample(world.pipeline, [prompt_of(STAR)], seeds=[0], steps=2)[0])
    assert not torch.equal(masked, untouched) and not torch.equal(before, after)
    assert before.mean().item() == pytest.approx(1) and after.mean().item() == pytest.approx(1)
    draw_looks(world, tmp_path / "looks.webp", ["sks"])
    with Image.open(tmp_path / "looks.webp") as figure:
        assert figure.width == 800  # four cells
