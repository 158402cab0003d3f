"""Does the overlap of two concept masks tell what happens when both are loaded?

Reads the masks that `cones bench quality` keeps, loads every pair of two subjects' masks (each seed with each), and
samples: each subject alone with both masks loaded, and both in one picture, in both orders. Prints JSON: each pair with
its overlap and shares, the rank correlation of overlap and shares, and what masks of one subject have in common.
cones_ops/reports/compare.py says what follows from it. Half an hour on one core.

    uv run --with scipy python benchmarks/collisions.py bench-out/quality/kept > collisions.json

--measured FILE takes the sampled pairs of an earlier run's lines (its standard error) and only sums up; --compare DIR
also compares the masks of a second folder, without sampling.
"""

# ruff: noqa: T201 - a benchmark answers by printing

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from cones_ops.laboratory.demo.report import versions
from cones_ops.laboratory.judge import load_judge
from cones_ops.laboratory.measure import all_shown, measure, subject_shown
from cones_ops.laboratory.quality.budget import FULL
from cones_ops.laboratory.quality.cells import SEEDS, UNTOUCHED
from cones_ops.laboratory.quality.inputs import Implanted
from cones_ops.laboratory.quality.measures import measuring
from cones_ops.masks.concept_mask import ConceptMask, intersection
from cones_ops.masks.mask_file import load_mask
from cones_ops.toy_world.bundle import load_pipeline
from cones_ops.toy_world.subjects import Subject

WHERES = ("own tokens", "everywhere")
MEASURES = ("jaccard", "of_smaller", "over_chance")
SEEN = ("each_by_itself", "each_with_both_loaded", "both_in_one_picture")
SAMPLING_SEED = 0


@dataclass(frozen=True)
class SubjectMask:
    """A subject and the mask that one seed found for it."""

    subject: Subject
    seed: int
    mask: ConceptMask


def found_in(folder: Path, where: str) -> list[SubjectMask]:
    """The default search's masks of the untouched subjects, those that are there."""
    named = {
        (one, seed): folder / f"learned-{where.replace(' ', '-')}-{one.identifier}-{seed}.safetensors"
        for one, seed in product(UNTOUCHED, SEEDS)
    }
    return [SubjectMask(one, seed, load_mask(file)) for (one, seed), file in named.items() if file.is_file()]


def pairs(found: list[SubjectMask], same: bool = False) -> Iterator[tuple[SubjectMask, SubjectMask]]:
    """Every two masks of different subjects, or of the same."""
    return ((one, other) for one, other in combinations(found, 2) if (one.subject == other.subject) == same)


def compared(where: str, one: SubjectMask, other: SubjectMask) -> dict[str, Any]:
    """Shared neurons: of all of both (Jaccard), of the smaller mask, and in units of what chance would share."""
    first, second = one.mask, other.mask
    shared = intersection(first, second).count
    return {
        "where": where,
        "pair": [f"{it.subject.identifier}/{it.seed}" for it in (one, other)],
        "jaccard": round(shared / (first.count + second.count - shared), 4),
        "of_smaller": round(shared / min(first.count, second.count), 4),
        "over_chance": round(shared * first.size / (first.count * second.count), 3),
        "densities": [round(mask.density, 4) for mask in (first, second)],
    }


def sampled(folder: Path) -> Iterator[dict[str, Any]]:
    """Every pair, compared, and what is seen in its pictures."""
    how = measuring(Implanted(load_pipeline()), load_judge(), FULL, SAMPLING_SEED)
    single: dict[tuple[str, str, int], float] = {}
    for where in WHERES:
        for one, other in pairs(found_in(folder, where)):
            for it in (one, other):
                key = (where, it.subject.identifier, it.seed)
                if key not in single:
                    single[key] = measure(how, subject_shown, it.subject, [(it.mask, 1.0)]).share
            both, subjects = [(one.mask, 1.0), (other.mask, 1.0)], (one.subject, other.subject)
            shares = (
                [single[where, it.subject.identifier, it.seed] for it in (one, other)],
                [measure(how, subject_shown, it, both).share for it in subjects],
                [measure(how, all_shown, some, both).share for some in (subjects, subjects[::-1])],
            )
            yield compared(where, one, other) | dict(zip(SEEN, map(fmean, shares), strict=True))


def rank_correlation(first: list[float], second: list[float]) -> float | None:
    """Spearman's, None when one of them does not vary."""
    if min(len({*first}), len({*second})) < 2:
        return None
    return round(float(spearmanr(first, second).statistic), 3)


def ranges(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Least, mean and most of some figures."""
    values = {name: [row[name] for row in rows] for name in names}
    return {name: {"least": min(v), "mean": round(fmean(v), 4), "most": max(v)} for name, v in values.items() if v}


def summarised(rows: list[dict[str, Any]], alike: list[dict[str, Any]]) -> dict[str, Any]:
    """Pairs of two subjects and pairs of one, at one place."""
    correlations = {
        f"{name}, {seen}": rank_correlation([row[name] for row in rows], [row[seen] for row in rows])
        for name in MEASURES
        for seen in SEEN[1:]
    }
    two = {"pairs": len(rows), **ranges(rows, (*MEASURES, *SEEN)), "rank_correlation": correlations}
    return {"two_subjects": two, "one_subject": {"pairs": len(alike), **ranges(alike, MEASURES)}}


def only_compared(folder: Path, where: str) -> dict[str, Any]:
    """What masks of two subjects, and of one, have in common."""
    found = {}
    for name, same in (("two_subjects", False), ("one_subject", True)):
        rows = [compared(where, *pair) for pair in pairs(found_in(folder, where), same)]
        found[name] = {"pairs": len(rows), **ranges(rows, MEASURES)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the kept/ folder of a quality benchmark")
    parser.add_argument("--measured", type=Path, help="lines of JSON of an earlier run, instead of sampling")
    parser.add_argument("--compare", type=Path, help="a second such folder, whose masks are compared, not sampled")
    given = parser.parse_args()
    rows = []
    if given.measured:
        rows = [json.loads(line[line.index("{") :]) for line in given.measured.read_text().splitlines()]
    else:
        for row in sampled(given.folder):
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    summary = {}
    for where in WHERES:
        alike = [compared(where, *pair) for pair in pairs(found_in(given.folder, where), same=True)]
        summary[where] = summarised([row for row in rows if row["where"] == where], alike)
    report = {"versions": versions(), "summary": summary, "pairs": rows}
    if given.compare:
        report["compared_only"] = {where: only_compared(given.compare, where) for where in WHERES}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
