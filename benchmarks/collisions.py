"""Does the overlap of two concept masks predict what happens when both are loaded?

Reads the masks that `cones bench quality` keeps, loads every pair of two subjects' masks (each seed with each), and
samples: each subject alone with both masks loaded, and both in one picture, in both orders. Prints JSON lines: each
pair with its overlap and shares; last, a summary with the rank correlation of overlap and shares, and what masks of one
subject have in common. cones_ops/reports/compare.py gives the conclusions. Half an hour on one core.

    uv run --with scipy python benchmarks/collisions.py bench-out/quality/kept > collisions.jsonl

--measured FILE reads the pairs from the lines of an earlier run, and only computes the summary.
"""

from __future__ import annotations

import argparse
import json
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
from cones_ops.laboratory.quality.cells import SEEDS
from cones_ops.laboratory.quality.inputs import FULL, World
from cones_ops.masks.concept_mask import ConceptMask, intersection
from cones_ops.masks.mask_file import load_mask
from cones_ops.toy_world.bundle import load_pipeline
from cones_ops.toy_world.subjects import HELD_OUT, Subject

WHERES = ("own tokens", "everywhere")
MEASURES = ("jaccard", "of_smaller", "over_chance")
SHARES = ("each_by_itself", "each_with_both_loaded", "both_in_one_picture")


@dataclass(frozen=True)
class SubjectMask:
    """A subject and the mask that one seed found for it."""

    subject: Subject
    seed: int
    mask: ConceptMask


def load_masks(folder: Path, where: str) -> list[SubjectMask]:
    """The default search's masks of the held-out subjects; those without a file are left out."""
    files = {
        (subject, seed): folder / f"learned-{where.replace(' ', '-')}-{subject.identifier}-{seed}.safetensors"
        for subject, seed in product(HELD_OUT, SEEDS)
    }
    return [SubjectMask(*key, load_mask(file)) for key, file in files.items() if file.is_file()]


def mask_pairs(masks: list[SubjectMask], same: bool) -> Iterator[tuple[SubjectMask, SubjectMask]]:
    """Every two masks of one subject (same), or of different subjects."""
    return (pair for pair in combinations(masks, 2) if (pair[0].subject == pair[1].subject) == same)


def compared(where: str, *pair: SubjectMask) -> dict[str, Any]:
    """Shared neurons: of all of both (Jaccard), of the smaller mask, and in units of what chance would share."""
    first, second = (item.mask for item in pair)
    shared = intersection(first, second).count
    return {
        "where": where,
        "pair": [f"{item.subject.identifier}/{item.seed}" for item in pair],
        "jaccard": round(shared / (first.count + second.count - shared), 4),
        "of_smaller": round(shared / min(first.count, second.count), 4),
        "over_chance": round(shared * first.size / (first.count * second.count), 3),
        "densities": [round(mask.density, 4) for mask in (first, second)],
    }


def sampled(folder: Path) -> Iterator[dict[str, Any]]:
    """Every pair, compared, and the shares of its pictures that show what was asked."""
    sampler = World(load_pipeline(), load_judge(), FULL, folder).measuring(seed=0)
    for where in WHERES:
        masks = load_masks(folder, where)
        single = {
            (item.subject, item.seed): measure(sampler, subject_shown, item.subject, [(item.mask, 1.0)]).share
            for item in masks
        }
        for pair in mask_pairs(masks, same=False):
            both, subjects = [(item.mask, 1.0) for item in pair], tuple(item.subject for item in pair)
            shares = (
                [single[item.subject, item.seed] for item in pair],
                [measure(sampler, subject_shown, subject, both).share for subject in subjects],
                [measure(sampler, all_shown, order, both).share for order in (subjects, subjects[::-1])],
            )
            yield compared(where, *pair) | dict(zip(SHARES, map(fmean, shares), strict=True))


def rank_correlation(first: list[float], second: list[float]) -> float | None:
    """Spearman's, None when one of them does not vary."""
    if min(len({*first}), len({*second})) < 2:
        return None
    return round(float(spearmanr(first, second).statistic), 3)


def ranges(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """The number of pairs, and the least, mean and most of some figures."""
    values = {name: [row[name] for row in rows] for name in names}
    figures = {name: {"least": min(v), "mean": round(fmean(v), 4), "most": max(v)} for name, v in values.items() if v}
    return {"pairs": len(rows), **figures}


def summarised(rows: list[dict[str, Any]], same_subject: list[dict[str, Any]]) -> dict[str, Any]:
    """Pairs of two subjects and pairs of one, all of which act at the same place."""
    correlations = {
        f"{name}, {share}": rank_correlation([row[name] for row in rows], [row[share] for row in rows])
        for name, share in product(MEASURES, SHARES[1:])
    }
    two_subjects = {**ranges(rows, (*MEASURES, *SHARES)), "rank_correlation": correlations}
    return {"two_subjects": two_subjects, "one_subject": ranges(same_subject, MEASURES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the kept/ folder of a quality benchmark")
    parser.add_argument("--measured", type=Path, help="the lines of an earlier run, instead of sampling")
    options = parser.parse_args()
    if options.measured:
        lines = [json.loads(line) for line in options.measured.read_text().splitlines()]
        pairs = (line for line in lines if "pair" in line)
    else:
        pairs = sampled(options.folder)
    rows = []
    for row in pairs:
        print(json.dumps(row), flush=True)
        rows.append(row)
    summary = {}
    for where in WHERES:
        same_subject = [compared(where, *pair) for pair in mask_pairs(load_masks(options.folder, where), same=True)]
        summary[where] = summarised([row for row in rows if row["where"] == where], same_subject)
    print(json.dumps({"versions": versions(), "summary": summary}))


if __name__ == "__main__":
    main()
