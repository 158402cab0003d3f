"""Is the toy world good enough to measure with? Prints JSON; --markdown: the tables of docs/results/toy-world.md.

(a) prompts that spell everything out: share of sampled scenes in which the judge finds every thing with every attribute
at its place, no other thing, and the background. (b) positive control: fine-tuning all text K and V on five pictures
(Custom Diffusion's recipe) and how often "a sks star" shows the subject before and after. Also the judge's own error on
fresh drawings. `uv run python benchmarks/toy_world.py --markdown table.md`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cones_ops.laboratory.averages import share_error
from cones_ops.laboratory.baselines import class_examples, fine_tune, subject_examples
from cones_ops.laboratory.judge import Judge, load_judge, matches, read, shows
from cones_ops.laboratory.measure import Measuring, class_leak, measure, subject_shown
from cones_ops.laboratory.sampling import sample
from cones_ops.laboratory.scenes import draw_all, random_scene
from cones_ops.toy_world.bundle import ToyPipeline, load_pipeline
from cones_ops.toy_world.captions import describe
from cones_ops.toy_world.subjects import SUBJECTS, Subject
from cones_ops.toy_world.world import Scene


def share(hits: list[bool]) -> dict[str, float]:
    """Share of hits with its binomial standard error."""
    rate = float(np.mean(hits))
    return {"share": round(rate, 4), "standard_error": round(share_error(rate, len(hits)), 4), "n": len(hits)}


def judge_on_drawings(judge: Judge, count: int) -> dict[str, float]:
    """The judge on drawn pictures it has never seen, every attribute of the whole scene at once."""
    generator = np.random.default_rng(99)
    scenes = [random_scene(generator, allow_held_out=True) for _ in range(count)]
    readings = read(judge, draw_all(scenes, generator))
    return share([matches(reading, scene) for reading, scene in zip(readings, scenes, strict=True)])


def described(pipeline: ToyPipeline, judge: Judge, things: int, count: int) -> dict[str, Any]:
    """Scenes of `things` things from their full description."""
    generator = np.random.default_rng([things, 5])
    scenes = [random_scene(generator, count=things) for _ in range(count)]
    readings = read(judge, sample(pipeline, [describe(scene) for scene in scenes]))
    pairs = list(zip(readings, scenes, strict=True))
    each = [dict(r.things).get(place) == thing for r, scene in pairs for place, thing in scene.things]
    return {
        "all_right": share([matches(reading, scene) for reading, scene in pairs]),
        "each_thing_right": share(each),
        "background_right": share([reading.background == scene.background for reading, scene in pairs]),
    }


def subject_described(pipeline: ToyPipeline, judge: Judge, subject: Subject, count: int) -> dict[str, float]:
    """The subject from words alone: a combination the model has never seen, spelled out."""
    text = describe(Scene((("centre", subject.thing),), "grey"))
    return share([shows(reading, subject.thing) for reading in read(judge, sample(pipeline, [text] * count))])


def controlled(pipeline: ToyPipeline, judge: Judge, subject: Subject, count: int) -> dict[str, Any]:
    """The positive control for one subject."""
    measuring = Measuring(pipeline, judge, samples=count)
    before = measure(measuring, subject_shown, subject)
    tuned = fine_tune(pipeline, subject_examples(pipeline, subject), class_examples(pipeline, subject))
    after = Measuring(tuned, judge, samples=count)
    return {
        "identifier": subject.identifier,
        "thing": f"{subject.thing.colour} and {subject.thing.colour2} {subject.thing.texture} {subject.thing.shape}",
        "described": subject_described(pipeline, judge, subject, count),
        "before": share(list(before.hits)),
        "after": share(list(measure(after, subject_shown, subject).hits)),
        "class_after": share(list(measure(after, class_leak, subject).hits)),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def cell(entry: dict[str, float]) -> str:
        return f"{100 * entry['share']:.1f} % (SE {100 * entry['standard_error']:.1f}, n {entry['n']:.0f})"

    lines = ["| prompts that spell everything out | every attribute right | each thing right |", "|---|---|---|"]
    for things, row in results["described"].items():
        lines.append(f"| {things} thing(s) | {cell(row['all_right'])} | {cell(row['each_thing_right'])} |")
    lines += ["", f"The judge itself on fresh drawings: {cell(results['judge'])} of whole scenes read right.", ""]
    lines += [
        "| subject | described in words | `a id class` before | after K/V fine-tuning | `a class` after |",
        "|---|---|---|---|---|",
    ]
    for row in results["positive_control"]:
        cells = (cell(row[key]) for key in ("described", "before", "after", "class_after"))
        lines.append(f"| {row['identifier']}: {row['thing']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-file", type=Path, help="another toy world file")
    parser.add_argument("--scenes", type=int, default=200, help="scenes per count of things")
    parser.add_argument("--samples", type=int, default=64, help="pictures per cell of the positive control")
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    arguments = parser.parse_args()
    began = time.monotonic()
    pipeline, judge = load_pipeline(arguments.model_file), load_judge()
    results: dict[str, Any] = {
        "judge": judge_on_drawings(judge, 1000),
        "described": {n: described(pipeline, judge, n, arguments.scenes) for n in (1, 2, 3, 4)},
        "positive_control": [controlled(pipeline, judge, s, arguments.samples) for s in SUBJECTS],
        "torch": torch.__version__,
    }
    results["seconds"] = round(time.monotonic() - began, 1)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
