"""Two concepts in one picture at own tokens, by reference pictures, steps, words and targets of the searches: JSON.

    uv run python benchmarks/two_concepts.py [--pictures 16] [--beside 15] [--steps 450] [--class-word yes|no]
                                             [--targets "text K+V"] [--samples 32]

Finds two subjects of the toy world, each with `pictures` reference pictures of which `beside` show another thing too
(captioned by its class), and lets the judge say how often each comes out alone, keeps a second object, and how often
both stand in one picture, asked for in either order. One seed; minutes on two CPU cores.
"""

# ruff: noqa: T201 - a benchmark answers by printing

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import torch

from cones_ops.concept_mask import ConceptMask
from cones_ops.find import find_concept_neurons
from cones_ops.search import recommended
from cones_ops.targets import TARGET_CHOICES
from cones_ops.toy_world import measure, sampling
from cones_ops.toy_world.bundle import ToyPipeline, load_pipeline
from cones_ops.toy_world.judge import load_judge
from cones_ops.toy_world.subjects import Subject, subject


def found(pipeline: ToyPipeline, one: Subject, given: argparse.Namespace) -> ConceptMask:
    """The mask of one subject, found at its own tokens."""
    class_word = one.class_word if given.class_word == "yes" else ""
    drawn, captions = one.reference_pictures(given.pictures, beside=given.beside)
    pictures = torch.from_numpy(drawn).float()
    return find_concept_neurons(
        sampling.model_of(pipeline, "own tokens", given.targets),
        sampling.examples(pipeline, pictures, captions, one.identifier, class_word),
        identifier=one.identifier,
        class_word=class_word,
        settings=replace(recommended("own tokens"), steps=given.steps),
    ).mask


def shares(measuring: measure.Measuring, subjects: list[Subject], masks: list[ConceptMask]) -> dict[str, Any]:
    """What the judge says of each mask alone, and of both."""
    both = [(mask, 1.0) for mask in masks]
    alone = list(zip(subjects, both, strict=True))
    return {
        "density": [round(mask.density, 4) for mask in masks],
        "alone": [measure.subject_shown(measuring, one, (mask,)).share for one, mask in alone],
        "second_object": [measure.second_object(measuring, one, (mask,)).share for one, mask in alone],
        "both": measure.all_shown(measuring, subjects, both).share,
        "both_swapped": measure.all_shown(measuring, subjects[::-1], both).share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--beside", type=int, default=15)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--class-word", choices=["yes", "no"], default="yes", help="whether it is an own token too")
    parser.add_argument("--targets", choices=TARGET_CHOICES[:3], default=TARGET_CHOICES[0])
    parser.add_argument("--samples", type=int, default=32)
    given = parser.parse_args()
    pipeline, subjects = load_pipeline(), [subject("sks"), subject("zwx")]
    masks = [found(pipeline, one, given) for one in subjects]
    report = shares(measure.Measuring(pipeline, load_judge(), given.samples), subjects, masks)
    print(json.dumps({**vars(given), **report, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
