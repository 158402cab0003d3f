"""The benchmark of several subjects: its sentences, what counts as bleeding, and the file of results."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from PIL import Image

from cones_ops import cli
from cones_ops.errors import ConesError
from cones_ops.laboratory.judge import Judge, Reading
from cones_ops.laboratory.quality.inputs import SMOKE, World, inputs_of
from cones_ops.laboratory.sampling import model_of, sample
from cones_ops.laboratory.several import cells, results
from cones_ops.laboratory.several.figure import draw_looks, prompt_of, untouched_and_masked
from cones_ops.laboratory.several.forms import ALL_FORMS, PLACES, UNSEEN, bleeds, plain_things, prompts_of
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.mask_file import save_mask
from cones_ops.toy_world.bundle import random_pipeline
from cones_ops.toy_world.caption_forms import SEARCH_FORMS
from cones_ops.toy_world.captions import Said
from cones_ops.toy_world.subjects import subject_named

CAT = subject_named("sks")  # orange and blue


def test_twelve_forms_of_which_two_are_for_judging_only() -> None:
    assert len({*ALL_FORMS}) == 12 and len(UNSEEN) == 2
    assert {*UNSEEN} | {*SEARCH_FORMS} == {*ALL_FORMS} and not {*UNSEEN} & {*SEARCH_FORMS}
    cats, mugs = [CAT.said] * 8, [Said("mug")] * 8
    assert prompts_of(cats, mugs, PLACES)[:4] == [
        "a sks cat on the left and a mug on the right in a meadow",
        "a mug on the left and a sks cat on the right on a beach",
        "a sks cat on the left and a mug on the right",
        "a mug on the left and a sks cat on the right",
    ]
    assert prompts_of(cats, mugs, UNSEEN)[3:5] == [
        "a sks cat to the right of a mug",
        "a drawing of a sks cat with a mug in the snow",
    ]


def test_plain_things_are_of_other_kinds() -> None:
    assert plain_things(CAT, 5)[:2] == [Said("owl"), Said("fish")] and Said("cat") not in plain_things(CAT, 40)


@pytest.mark.parametrize(
    ("kind", "colours", "taken"),
    [
        ("mug", ("orange", "blue"), True),
        ("mug", ("blue", "orange"), True),
        ("mug", ("orange", "red"), False),
        ("cat", ("orange", "blue"), False),
    ],
)
def test_somebody_of_another_kind_in_both_colours_has_taken_them(
    kind: str, colours: tuple[str, str], taken: bool
) -> None:
    seen = replace(CAT.character, kind=kind, colour=colours[0], second=colours[1])
    assert bleeds(Reading("one", (seen,), "snow"), CAT) is taken


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


def test_the_command_makes_the_missing_cells_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def shown(world: World, name: str) -> cells.Figures:
        made.append(name)
        if name == "words/hta+bnk+olr/untouched" and len(made) < 5:
            raise ConesError("no judge")
        return {"words": {"value": 0.5, "standard_error": None, "n": 1}}

    monkeypatch.setattr(cells, "figures_of", shown)
    monkeypatch.setattr(cells, "world_of", lambda folder, budget: None)
    command = ["bench", "several", "--only", "^words", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "1 of 4 cells could not be made: words/hta+bnk+olr/untouched: no judge" in capsys.readouterr().err
    assert cli.main(command) == 0  # what failed is made, and nothing else
    assert len(made) == 5 and made[0] == made[4]
    assert json.loads(capsys.readouterr().out)["triples"]["words"] == {"value": 0.5, "standard_error": 0.0, "n": 4}


def test_where_words_look_without_the_mask_and_with_it(tmp_path: Path) -> None:
    world = World(random_pipeline(0, (32, 64)), Judge(), replace(SMOKE, sampling_steps=2), tmp_path)
    weights = model_of(world.pipeline).base_weights
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    index = {name: torch.arange(0, prod(shape), 2) for name, shape in shapes.items()}
    mask = ConceptMask(index, shapes, "sks", "cat", "own tokens", own_words="phrase")
    save_mask(mask, inputs_of(world, CAT, 0).kept("learned-own tokens"))
    (_, untouched, before), (_, masked, after) = untouched_and_masked(world, CAT, 0)
    assert torch.equal(untouched, sample(world.pipeline, [prompt_of(CAT)], seeds=[0], steps=2)[0])
    assert not torch.equal(masked, untouched) and not torch.equal(before, after)
    assert before.mean().item() == pytest.approx(1) and after.mean().item() == pytest.approx(1)
    draw_looks(world, tmp_path / "looks.webp", ["sks"])
    with Image.open(tmp_path / "looks.webp") as figure:
        assert figure.width == 800  # four cells
