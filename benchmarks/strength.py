"""What strengths below 0 and above 1 would do, if masks had them: a shut weight is multiplied with 1 - strength.

Each mask's subject is drawn and judged, and a second thing beside it, with the mask at strengths from -1 to 2. Writes
the shares as JSON and, for each mask, a row with one picture a strength. Some minutes a mask on one core.

    uv run python benchmarks/strength.py concept_masks/toy-*.safetensors --json strength.json --picture strength.webp
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cones_ops.laboratory.judge import load_judge
from cones_ops.laboratory.measure import Measuring, measure, second_object, subject_shown
from cones_ops.laboratory.picture_grid import GridRow, save_grid
from cones_ops.laboratory.sampling import OwnWeights, model_of
from cones_ops.laboratory.world.in_words import Share
from cones_ops.masks.concept_mask import ConceptMask, multiplier
from cones_ops.masks.mask_file import load_mask
from cones_ops.toy_world.bundle import ToyPipeline, load_pipeline
from cones_ops.toy_world.subjects import subject_named

STRENGTHS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def at_strength(
    pipeline: ToyPipeline, judge: Any, mask: ConceptMask, strength: float, samples: int
) -> tuple[dict[str, Any], Tensor, bool]:
    """The shares at one strength, the first picture of the subject, and whether it shows the subject."""
    subject, model = subject_named(mask.identifier), model_of(pipeline, mask.where)
    factors = {key: 1 - strength * (1 - multiplier(mask, key[1]).float()) for key in model.weights}
    own = None
    if mask.where == "own tokens":
        weights = {key: weight * factors[key] for key, weight in model.weights.items()}
        own = OwnWeights(weights, mask.identifier, mask.class_word)
    measuring = Measuring(pipeline, judge, samples, own_weights=own)
    with nullcontext() if own else model.multiplied(factors):
        shown, second = (measure(measuring, ask, subject) for ask in (subject_shown, second_object))
    shares = {
        name: Share(sum(measured.hits), samples).as_json()
        for name, measured in (("subject", shown), ("second_thing", second))
    }
    return {"strength": strength, **shares}, shown.pictures[0], shown.hits[0]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", nargs="+", type=Path, help="concept masks of toy subjects")
    parser.add_argument("--samples", type=int, default=48, help="pictures a share")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline, judge = load_pipeline(), load_judge()
    results, rows = {}, []
    for file in options.masks:
        mask = load_mask(file)
        cells = [at_strength(pipeline, judge, mask, strength, options.samples) for strength in STRENGTHS]
        results[file.stem] = [shares for shares, _, _ in cells]
        pictures, hits = torch.stack([picture for _, picture, _ in cells]), [hit for _, _, hit in cells]
        words = f"{mask.identifier} {mask.class_word}, {mask.where}"
        rows.append(GridRow(words, "strength " + ", ".join(f"{strength:g}" for strength in STRENGTHS), pictures, hits))
        sys.stdout.write(json.dumps({file.stem: results[file.stem]}) + "\n")
        sys.stdout.flush()
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    save_grid(rows, options.picture, columns=len(STRENGTHS))


if __name__ == "__main__":
    main()
