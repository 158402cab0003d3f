"""The quality benchmark: its plan, one cell of each kind on random weights, resuming, and the summary by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from cones_ops import cli
from cones_ops.engine.claims import claimed
from cones_ops.errors import ConesError
from cones_ops.laboratory.cell_files import collect, file_of
from cones_ops.laboratory.judge import Judge, Reading
from cones_ops.laboratory.quality import run
from cones_ops.laboratory.quality.cells import SEEDS, plan, run_cell
from cones_ops.laboratory.quality.inputs import Budget, World, budget_of
from cones_ops.laboratory.quality.measures import Figures, look
from cones_ops.laboratory.quality.summary import markdown, ratio, summary
from cones_ops.toy_world.bundle import random_pipeline
from cones_ops.toy_world.subjects import CHOOSING, HELD_OUT, subject_named

TINY = Budget(steps=2, batch=2, beside=4, class_pictures=4, joint_steps=1, samples=2, sampling_steps=2, held_out=4)
SINGLE = {  # how many draws or pictures each figure is a mean of
    **{"subject_loss": 4, "subject_gain": 4, "prior_loss": 2, "prior_gain": 2},
    **{"subject_share": 2, "class_share": 2, "look": 2, "look_difference": 2, "second_object": 2},
    **{"background": 4, "count": 4, "drift": 2, "density": None, "file_bytes": None, "seconds": None},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(random_pipeline(0, (32, 64)), Judge(), TINY, tmp_path_factory.mktemp("quality"))


def test_the_plan_has_every_method_on_the_held_out_subjects_with_every_seed() -> None:
    names = plan()
    assert len(set(names)) == len(names)
    for subject in HELD_OUT:
        for seed in SEEDS:
            for method in ("learned", "cones", "taylor", "random", "kv_finetune"):
                for where in ("own tokens", "everywhere"):
                    assert f"single/{method}/{where}/{subject.identifier}/{seed}" in names
            assert f"single/dreambooth/everywhere/{subject.identifier}/{seed}" in names
    assert "several/tuned/own tokens/hta+bnk+olr+mfj/0" in names
    groups = [name.split("/")[3].split("+") for name in names if name.startswith("several/oracle")]
    for size in (2, 3, 4):  # each subject in equally many groups
        members = Counter(identifier for group in groups if len(group) == size for identifier in group)
        assert members == {subject.identifier: size for subject in HELD_OUT}
    assert f"single/text V/own tokens/{CHOOSING[0].identifier}/0" in names
    held_out = {subject.identifier for subject in HELD_OUT}
    assert not [name for name in names if "text V" in name and name.split("/")[3] in held_out]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "single/learned/own tokens/hta/0",
        "single/random/own tokens/hta/0",
        "single/quaternary/own tokens/hta/0",
        "single/kv_finetune/own tokens/hta/0",
        "single/textual_inversion/own tokens/hta/0",
        "single/nothing/everywhere/hta/0",
        "single/lora/everywhere/hta/0",
        "single/dreambooth/everywhere/hta/0",
    ],
)
def test_a_cell_of_one_subject(world: World, name: str) -> None:
    cell = run_cell(world, name)
    figures = cell["figures"]
    assert {figure: value.get("n") for figure, value in figures.items()} == SINGLE
    assert (cell["name"], cell["seed"], cell["settings"]["budget"]) == (name, 0, asdict(TINY))
    if "own tokens" in name:  # nothing but the subject's words can change
        assert figures["drift"]["value"] == 0 and figures["prior_gain"]["value"] == 0
    if "nothing" in name:
        assert figures["subject_gain"]["value"] == 0 and figures["file_bytes"]["value"] == 0
    if "dreambooth" in name:
        assert figures["drift"]["value"] > 0 and figures["prior_gain"]["value"] != 0
    json.dumps(cell, allow_nan=False)


@pytest.mark.slow
def test_cells_of_several_subjects(world: World) -> None:
    oracle = run_cell(world, "several/oracle/everywhere/hta+bnk/0")["figures"]
    assert oracle["all"]["n"] == 2 * TINY.samples  # both orders
    for method in ("union", "tuned"):
        figures = run_cell(world, f"several/{method}/own tokens/hta+bnk/0")["figures"]
        pictures = {name: figures[name]["n"] for name in ("alone", "alone hta", "alone bnk", "all")}
        assert pictures == {"alone": 4, "alone hta": 2, "alone bnk": 2, "all": 4}
        assert 0 < figures["density"]["value"] <= 0.3
    sequential = run_cell(world, "several/sequential kv_finetune/everywhere/hta+bnk/0")["figures"]
    assert [sequential[name]["n"] for name in ("first_before", "first_after")] == [2, 2]
    assert run_cell(world, "several/lora union/everywhere/hta+bnk/0")["figures"]["all"]["n"] == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is not the name of a cell .*--list prints them"),
        ("single/learned/own tokens/hta", "is not the name of a cell"),
        ("single/none/own tokens/hta/0", "no method 'none' own tokens; there are learned, "),
        ("several/oracle/here/hta+bnk/0", "is not the name of a cell; --list"),
        ("single/learned/own tokens/who/0", "is not the name of a cell .*who"),
    ],
)
def test_other_names_are_refused(world: World, name: str, message: str) -> None:
    with pytest.raises(ConesError, match=message):
        run_cell(world, name)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fake(world: World, name: str) -> dict[str, Any]:
        made.append(name)
        return {"name": name, "settings": {"budget": asdict(world.budget)}, "figures": {}}

    monkeypatch.setattr(run, "run_cell", fake)
    monkeypatch.setattr(run, "load_pipeline", lambda: None)
    monkeypatch.setattr(run, "load_judge", lambda: None)
    names = ["single/a/everywhere/sks/0", "single/b/everywhere/sks/0", "single/c/everywhere/sks/0"]
    file_of(tmp_path, names[2]).with_suffix(".claim").touch()  # of a process that has died
    with claimed(file_of(tmp_path, names[1]).with_suffix(".claim")):  # another process is at it
        run.run(tmp_path, names[:2])
    assert made == names[:1]
    run.run(tmp_path, names)
    assert made == names
    run.run(tmp_path, names[:1], again=True)
    assert made == [*names, names[0]]
    with pytest.raises(ConesError, match=r"beside 24 \(now 12\)"):  # figures of other pictures are not mixed in
        run.run(tmp_path, names, budget_of(beside=12))
    with pytest.raises(ConesError, match="choose another folder"):  # nor beside cells of other names
        run.run(tmp_path, ["single/d/everywhere/sks/0"], budget_of(beside=12))
    assert made == [*names, names[0]]
    assert not list((tmp_path / "cells").glob("*.claim"))
    monkeypatch.setattr(run, "run_cell", lambda world, name: 1 / 0)
    with pytest.raises(ConesError, match=r"1 of 1 cells could not be made: .*ZeroDivisionError"):
        run.run(tmp_path, ["single/d/everywhere/sks/0"])


def test_the_number_of_collages_may_be_given() -> None:
    assert budget_of(beside=12) == replace(budget_of(), beside=12)
    assert budget_of(smoke=True).steps < budget_of().steps
    with pytest.raises(ConesError, match="-1 collages"):
        budget_of(beside=-1)


def test_a_run_takes_over_the_cells_of_an_earlier_one(tmp_path: Path) -> None:
    names = ("single/a/everywhere/sks/0", "single/b/everywhere/sks/0")
    results = tmp_path / "quality.jsonl"
    results.write_text("".join(f'{{"name": "{name}", "figures": {{}}}}\n' for name in names))
    mine = file_of(tmp_path, "single/a/everywhere/sks/0")
    mine.write_text("mine")
    assert run.restore(tmp_path, results) == 1
    assert mine.read_text() == "mine"
    assert json.loads(file_of(tmp_path, "single/b/everywhere/sks/0").read_text())["name"].startswith("single/b")
    results.write_text("[]")
    with pytest.raises(ConesError, match="not the results"):
        run.restore(tmp_path, results)


def test_results_are_one_cell_a_line_with_the_summary_beside_them(tmp_path: Path) -> None:
    cells = [single_cell("learned", "own tokens", "hta", seed, gain) for seed, gain in ((0, 0.1), (1, 0.3))]
    run.write_results(tmp_path / "new" / "quality.jsonl", cells)
    lines = (tmp_path / "new" / "quality.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == cells
    rows = json.loads((tmp_path / "new" / "quality_summary.json").read_text())
    assert rows["default"]["subject_gain"] == {"value": 0.2, "standard_error": 0.1, "n": 2}
    assert run.restore(tmp_path / "resumed", tmp_path / "new" / "quality.jsonl") == 2
    assert collect(tmp_path / "resumed") == cells


def single_cell(method: str, where: str, identifier: str, seed: int, gain: float, **more: float) -> dict[str, Any]:
    figures: Figures = {name: {"value": 0.0} for name in SINGLE}
    figures |= {"subject_gain": {"value": gain}, **{name: {"value": value} for name, value in more.items()}}
    return {"name": f"single/{method}/{where}/{identifier}/{seed}", "figures": figures}


def test_the_summary_by_hand() -> None:
    cells = [
        single_cell("kv_finetune", "everywhere", "hta", 0, 0.10),
        single_cell("kv_finetune", "everywhere", "bnk", 0, 0.30),
        single_cell("learned", "own tokens", "hta", 0, 0.05, subject_share=1.0),
        single_cell("learned", "own tokens", "bnk", 0, 0.25, subject_share=0.5),
        single_cell("learned", "own tokens", "sks", 0, 9.0),  # chose settings: not in the means
    ]
    found = summary(cells)
    assert found["default"]["subject_gain"]["value"] == pytest.approx(0.15)
    assert found["default"]["subject_share"] == {"value": 0.75, "standard_error": 0.25, "n": 2}
    assert found["default"]["gain_share"]["value"] == pytest.approx(0.75)  # .30 / .40
    # leaving one out gives .25/.30 and .05/.10: variance of (.8333, .5) is .02778, times n - 1
    assert found["default"]["gain_share"]["standard_error"] == pytest.approx(0.1667, abs=1e-3)
    assert found["default"]["worst_gain"]["value"] == 0.05
    assert list(found["choosing"]) == ["learned, own tokens"] and "lora" not in found
    text = markdown(found)
    assert re.search(r"\| default \| 75 % ± 17 \| 0.1500 ± 0.1000 \|", text)
    assert ratio([1.0], [2.0]) == {"value": 0.5, "standard_error": None, "n": 1}


def test_several_are_told_beside_the_oracle() -> None:
    cells = [
        {"name": f"several/{method}/{where}/hta+bnk/0", "figures": {"all": {"value": share}, "alone": {"value": 1.0}}}
        for method, where, share in (("oracle", "everywhere", 0.8), ("tuned", "own tokens", 0.6))
    ]
    pairs = summary(cells)["pairs"]
    assert pairs["tuned, own tokens"]["all"]["value"] == 0.6
    assert pairs["tuned, own tokens"]["all_full_caption"]["value"] == 0.8
    assert "| tuned, own tokens | 100 % | 60 % | 80 % |" in markdown(summary(cells))


def test_look_is_the_share_of_attributes_of_the_most_alike_character() -> None:
    cat, owl = subject_named("sks").character, subject_named("olr").character
    half = replace(cat, colour="red", second="?", variant="second")
    assert look(Reading("two", (half, replace(owl, eyes="one")), "snow"), cat) == 0.5
    assert look(Reading("one", (cat,), "snow"), cat) == 1.0
    unreadable = replace(owl, **dict.fromkeys(vars(owl), "?"))
    assert look(Reading("one", (unreadable,), "snow"), cat) == 0.0


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "quality", "--smoke", "--list", "--only", "several"]) == 0
    assert "several/tuned/own tokens/hta+bnk/0" in capsys.readouterr().out
    assert cli.main(["bench", "quality", "--only", "no such cell"]) == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "a"}', '{"name": "a", "figures": {}, "settings": 1}'])
def test_a_damaged_cell_is_named(tmp_path: Path, content: str) -> None:
    file = file_of(tmp_path, "a")
    file.write_text(content)
    with pytest.raises(ConesError, match=r"a\.json: not a cell of this benchmark"):
        collect(tmp_path)
