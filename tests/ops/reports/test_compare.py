"""What is said of masks before sampling: overlaps by hand, each warning, and advice by where masks act."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from support.masks import make_mask

from cones_ops import ConceptMask, ConesError
from cones_ops.reports.compare import ADVICE, SAME_SUBJECT, collision_report, jaccard, names_of

MIDDLE = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
LAST = "output_blocks.3.1.transformer_blocks.0.attn2.to_v.weight"
SHAPES = {MIDDLE: (50, 10), LAST: (50, 10)}  # 1000 entries
KINDS = {"own tokens": ("at own tokens, tuned", "at own tokens"), "everywhere": ("everywhere, tuned", "everywhere")}
EVIDENCE = Path(__file__).absolute().parents[3] / "benchmarks" / "results" / "collisions.jsonl"


def mask(middle: range, last: range, identifier: str = "sks", **fields: object) -> ConceptMask:
    defaults = {"class_word": "star", "where": "own tokens", "fingerprint": "a" * 64}
    return make_mask({MIDDLE: middle, LAST: last}, SHAPES, identifier, **defaults | fields)


ONE = mask(range(0, 20), range(0, 20))  # 40 neurons
OTHER = mask(range(17, 37), range(19, 29), "zwx")  # 30 neurons, 3 + 1 of them shared


def test_overlap_by_hand() -> None:
    report = collision_report([ONE, OTHER])
    # 4 of 30, and of 40 + 30 - 4; chance 40 * 30 / 1000 = 1.2
    assert report.startswith(
        "sks star and zwx star: 4 neurons in common, 13% of the smaller mask's and 6% of all in either "
        "(3.3 times what chance would), most in middle block (75%)\n"
    )
    assert jaccard(ONE, OTHER) == 4 / 66


def test_nothing_in_common() -> None:
    assert "no neuron in common" in collision_report([ONE, mask(range(100, 120), range(0), "zwx")])


def at(where: str, tuned: bool = False) -> list[ConceptMask]:
    told = {"tuned_with": "1"} if tuned else {}
    return [replace(one, where=where, provenance=told) for one in (ONE, OTHER)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("masks", "kind"),
    [
        (at("own tokens"), "at own tokens"),
        (at("own tokens", True), "at own tokens, tuned"),
        (at("everywhere"), "everywhere"),
        (at("everywhere", True), "everywhere, tuned"),
        ([at("own tokens")[0], at("everywhere")[1]], "one everywhere, one at its own tokens"),
    ],
)
def test_advice_is_by_where_masks_act(masks: list[ConceptMask], kind: str) -> None:
    report = collision_report(masks)
    assert report.endswith(f"Masks {kind}. {ADVICE[kind]}")
    assert sum(text in report for text in ADVICE.values()) == 1


def test_advice_is_given_once_for_many_pairs() -> None:
    report = collision_report([ONE, OTHER, mask(range(40), range(0), "qpd")])
    assert report.count(" and ") >= 3 and report.count(ADVICE["at own tokens"]) == 1


def test_one_word_for_two() -> None:
    assert 'THE SAME WORD: "sks"' in collision_report([ONE, replace(OTHER, identifier="sks")])


def test_other_weights_get_no_advice() -> None:
    report = collision_report([ONE, replace(OTHER, fingerprint="b" * 64)])
    assert "NOT FOR ONE MODEL" in report and "aaaaaaaaaaaa and bbbbbbbbbbbb" in report
    assert not any(text in report for text in ADVICE.values())


def test_one_mask_twice() -> None:
    assert "THE SAME NEURONS" in collision_report([ONE, replace(ONE, identifier="zwx")])


def test_a_double_is_suspected_above_the_threshold() -> None:
    below, above = mask(range(9, 29), range(20, 40), "zwx"), mask(range(0, 20), range(20, 40), "zwx")
    assert jaccard(ONE, below) < SAME_SUBJECT["own tokens"] < jaccard(ONE, above)  # 11 of 69, 20 of 60
    assert "ONE SUBJECT TWICE?" not in collision_report([ONE, below])
    assert "ONE SUBJECT TWICE?" in collision_report([ONE, above])


def test_dense_masks_are_beyond_what_was_measured() -> None:
    report = collision_report([mask(range(0, 70), range(0)), mask(range(0, 71), range(0), "zwx")])
    assert "Over 6%" in report and "ONE SUBJECT TWICE?" not in report


def test_names() -> None:
    assert names_of([ONE, OTHER, ONE]) == ["sks star (1)", "zwx star", "sks star (3)"]
    assert names_of([replace(ONE, identifier="", class_word="")]) == ["no name"]


def test_bad_input() -> None:
    with pytest.raises(ConesError, match="1 concept mask given; connect at least two"):
        collision_report([ONE])
    with pytest.raises(ConesError, match="mask 2 has no neurons"):
        collision_report([ONE, ConceptMask({}, SHAPES)])
    with pytest.raises(ConesError, match="disagree on the shape"):
        collision_report([ONE, ConceptMask({LAST: torch.tensor([0])}, {LAST: (2, 2)}, "zwx")])


@pytest.mark.parametrize("where", ["own tokens", "everywhere"])
def test_the_thresholds_and_shares_are_those_of_the_evidence(where: str) -> None:
    if not EVIDENCE.is_file():
        pytest.skip("benchmarks are not part of this package")
    *pairs, last = map(json.loads, EVIDENCE.read_text().splitlines())
    two, one = (last["summary"][where][name] for name in ("two_subjects", "one_subject"))
    assert two["jaccard"]["most"] < SAME_SUBJECT[where] < one["jaccard"]["least"]
    text = ADVICE["everywhere" if where == "everywhere" else "at own tokens"]
    quoted = [two["both_in_one_picture"][name] for name in ("mean", "least", "most")]
    if where == "everywhere":
        quoted += [two[name]["mean"] for name in ("each_by_itself", "each_with_both_loaded")]
    else:
        assert two["each_with_both_loaded"] == two["each_by_itself"]
    assert all(f"{share:.0%}".replace("%", " %") in text for share in quoted)
    told = two["rank_correlation"]
    assert all(abs(told[f"jaccard, {seen}"]) < 0.2 for seen in ("both_in_one_picture", "each_with_both_loaded"))
    if where == "everywhere":
        shares = [pair for pair in pairs if pair["where"] == where]
        assert all(pair["each_with_both_loaded"] < pair["each_by_itself"] for pair in shares)


@pytest.mark.parametrize("where", ["own tokens", "everywhere"])
def test_what_joint_steps_do_is_quoted_from_the_benchmark(where: str) -> None:
    if not EVIDENCE.is_file():
        pytest.skip("benchmarks are not part of this package")
    cells = [json.loads(line) for line in EVIDENCE.with_name("quality.jsonl").read_text().splitlines()]
    tuned = [c for c in cells if c["name"].startswith(f"several/tuned/{where}/") and c["name"].count("+") == 1]
    shares = [fmean(cell["figures"][figure]["value"] for cell in tuned) for figure in ("alone", "all")]
    tuned_text, text = (ADVICE[kind] for kind in KINDS[where])
    assert all(f"{share:.0%}".replace("%", " %") in tuned_text for share in shares)
    assert f"{shares[1]:.0%}".replace("%", " %") in text
