"""The demo from end to end on random weights: every file is written and every number the JSON promises is there."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image

from cones_ops import cli
from cones_ops.laboratory.demo import run as demo
from cones_ops.laboratory.judge import Judge
from cones_ops.laboratory.picture_grid import CELL, GAP, TITLE
from cones_ops.masks.mask_file import load_mask
from cones_ops.search.settings import SearchSettings
from cones_ops.toy_world.bundle import random_pipeline

pytestmark = pytest.mark.slow
CONCEPT = {
    *("identifier", "class_word", "method", "where", "found", "neurons", "density", "file_bytes", "seconds"),
    *("heldout_before", "heldout_after", "heldout_gain", "heldout_gain_standard_error"),
    *("subject_share_before", "subject_share_after", "class_share_before", "class_share_after", "class_drift"),
    *("second_object_before", "second_object_after", "standard_errors"),
}
PAIR = ("first_alone", "second_alone", "both", "both_full_caption")
SHARES = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]  # of 4 pictures, or of 4 in both orders
SEARCH = SearchSettings(steps=2, batch=4, held_out=4)
TINY = demo.DemoSettings(samples=4, sampling_steps=2, search=SEARCH, joint=SEARCH)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("demo")
    return demo.run(random_pipeline(0, (32, 64)), Judge(), out, TINY), out


def test_the_json_has_what_it_promises(report: tuple[dict[str, Any], Path]) -> None:
    found, out = report
    assert json.loads((out / "demo.json").read_text()) == found
    assert [(one["identifier"], one["where"]) for one in found["concepts"]] == [
        ("sks", "own tokens"),
        ("zwx", "own tokens"),
    ]
    assert all(set(one) == CONCEPT for one in found["concepts"])
    assert all(one[name] in SHARES for one in found["concepts"] for name in CONCEPT if "share" in name)
    assert [pair["where"] for pair in found["pair"]] == ["own tokens", "own tokens, tuned together"]
    assert all(pair[name] in SHARES for pair in found["pair"] for name in PAIR)
    assert found["samples_per_share"] == 4 and torch.__version__.startswith(found["versions"]["torch"])


def test_own_token_masks_leave_the_class_prompt_bit_identical(report: tuple[dict[str, Any], Path]) -> None:
    assert [one["class_drift"] for one in report[0]["concepts"] if one["where"] == "own tokens"] == [0.0, 0.0]


def test_masks_and_pictures_are_written(report: tuple[dict[str, Any], Path]) -> None:
    found, out = report
    assert Image.open(out / "demo.png").width > 800
    titles, rows = 4, 8  # pictures of each of two subjects before and after, both together apart and tuned
    assert Image.open(out / "brief.png").height == titles * TITLE + rows * (CELL + GAP) + GAP
    for one in found["concepts"]:
        name = f"{one['identifier']}-{one['class_word']}-{one['where'].replace(' ', '-')}.safetensors"
        mask = load_mask(out / "concept_masks" / name)
        assert (mask.count, mask.density, mask.where) == (one["neurons"], one["density"], one["where"])
        assert one["file_bytes"] == (out / "concept_masks" / name).stat().st_size
        assert mask.provenance["method"] == one["method"] == "learned"


def test_one_subject_is_shown_alone(tmp_path: Path) -> None:
    quick = replace(TINY, identifiers=("zwx",))
    found = demo.run(random_pipeline(0, (32, 64)), Judge(), tmp_path, quick)
    assert [one["identifier"] for one in found["concepts"]] == ["zwx"] and found["pair"] == []
    titles, rows = 2, 3  # its pictures, before and after
    assert Image.open(tmp_path / "brief.png").height == titles * TITLE + rows * (CELL + GAP) + GAP
    assert (demo.QUICK.identifiers, demo.QUICK.search.steps) == (("sks",), demo.FULL.search.steps)


def test_cli_demo_and_info(
    report: tuple[dict[str, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(demo, "run", lambda *arguments: asked.extend(arguments) or report[0])
    monkeypatch.setattr("cones_ops.toy_world.bundle.load_pipeline", lambda: "pipeline")
    monkeypatch.setattr("cones_ops.laboratory.judge.load_judge", lambda: "judge")
    assert cli.main(["demo", "--quick", "--out", "here", "--json", str(tmp_path / "n" / "it.json")]) == 0
    assert asked == ["pipeline", "judge", Path("here"), demo.QUICK]
    assert json.loads((tmp_path / "n" / "it.json").read_text()) == report[0]
    said = capsys.readouterr().out
    assert "both masks" in said and "left out, as --quick asked: a second concept" in said
    file = next((report[1] / "concept_masks").iterdir())
    assert cli.main(["info", str(file)]) == 0
    assert "attn2.to_k.weight" in capsys.readouterr().out


def test_cli_says_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["info", "nowhere.safetensors"]) == 2
    assert "no such file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr("cones_ops.laboratory.judge.load_judge", Judge)
    monkeypatch.setattr("cones_ops.toy_world.bundle.load_pipeline", lambda: random_pipeline(0, (32, 64)))
    assert cli.main(["demo", "--quick"]) == 2
    assert "pip install" in capsys.readouterr().err
