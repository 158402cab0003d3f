"""The bars that the toy world has to clear, as one command with one file of results.

`python -m cones_ops.laboratory.world.bars` prints each bar with its standard error and writes
benchmarks/results/world.json: in words by number of characters, the positive control by subject, the judge, the model.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from ...toy_world import bundle
from ...toy_world.subjects import SUBJECTS, subject_named
from ..baselines import FineTuning, fine_tune_own_tokens, subject_examples
from ..judge import load_judge
from ..measure import Measuring, measure, subject_shown
from .in_words import Share, in_words, judge_on_drawings, look_alikes_passed, parameters
from .sheets import sheet

BARS = {1: 0.95, 2: 0.90, 3: 0.80, 4: 0.65}
CONTROL_BAR, CONTROL_SUBJECTS = 0.60, 8
PICTURES, RATE = 16, 4e-3  # of the positive control: reference pictures, half of them with others; rate


def say(line: str) -> None:
    """One line to the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def words_bars(pipeline: bundle.ToyPipeline, judge: Any, samples: int, pictures: Path | None) -> dict[str, Any]:
    """Bar (a): full captions in every form."""
    results = {}
    for count, bar in BARS.items():
        measured = in_words(pipeline, judge, count, samples)
        share, parts = measured.share, measured.attributes
        results[str(count)] = share.as_json() | {"each": measured.characters.as_json()["value"]}
        say(
            f"in words, {count}: {share.value:.3f} +- {share.standard_error:.3f} (bar {bar}), each character "
            f"{measured.characters.value:.3f}; {' '.join(f'{name} {part.value:.2f}' for name, part in parts.items())}"
        )
        say("  by form: " + " ".join(f"{name} {part.value:.2f}" for name, part in measured.by_form().items()))
        if pictures:
            sheet(measured.pictures[:24], 12).save(pictures / f"in-words-{count}.png")
    return results


def control_bars(
    pipeline: bundle.ToyPipeline, judge: Any, names: list[str], samples: int, steps: int, pictures: Path | None
) -> dict[str, Any]:
    """Bar (b): each subject before and after fine-tuning K and V at its own tokens.

    It is the upper bound of what shutting entries of K and V can reach; a subject that it cannot implant tests no mask.
    """
    results, rows = {}, []
    for name in names:
        subject = subject_named(name)
        shown = subject_examples(pipeline, subject, PICTURES, beside=PICTURES // 2)
        tuned = fine_tune_own_tokens(pipeline, shown, subject, FineTuning(steps, RATE))
        before = measure(Measuring(pipeline, judge, samples), subject_shown, subject)
        after = measure(Measuring(pipeline, judge, samples, own_weights=tuned), subject_shown, subject)
        shares = {"before": Share(sum(before.hits), samples), "after": Share(sum(after.hits), samples)}
        results[name] = {phase: share.as_json() for phase, share in shares.items()}
        seen = [vars(reading.characters[0]) for reading in after.readings]
        parts = {key: sum(row[key] == value for row in seen) for key, value in vars(subject.character).items()}
        say(
            f"control {name} {subject.class_word}: {before.share:.2f} -> {after.share:.2f} "
            f"+- {after.standard_error:.2f} (bar {CONTROL_BAR} for {CONTROL_SUBJECTS}); "
            f"{' '.join(f'{key} {hits / samples:.2f}' for key, hits in parts.items())}"
        )
        rows.append(torch.cat([subject.reference_pictures(4)[0], after.pictures[:8]]))
        if pictures:
            sheet(torch.cat(rows), 12).save(pictures / "control.png")
    return results


def training_of(checkpoint: Path) -> dict[str, float]:
    """Processor hours and samples that the UNet has had."""
    if not checkpoint.is_file():
        return {}
    from ..training.unet import BATCH

    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    if "spent" not in state:  # unpacked from a model file
        return {}
    return {"thread_hours": round(state["spent"] / 3600, 2), "samples": state["step"] * BATCH}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-file", type=Path, default=bundle.SHIPPED)
    parser.add_argument("--judge-file", type=Path, default=None)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/unet.pt"), help="for the training's cost")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/world.json"))
    parser.add_argument("--only", choices=("words", "control", "judge"), action="append", help="default: all three")
    parser.add_argument("--samples", type=int, default=96, help="pictures for each number of characters")
    parser.add_argument("--subjects", nargs="*", default=[each.identifier for each in SUBJECTS])
    parser.add_argument("--subject-samples", type=int, default=30)
    parser.add_argument("--control-steps", type=int, default=300)
    parser.add_argument("--pictures", type=Path, default=None, help="folder for sheets of what was sampled")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    only = arguments.only or ["judge", "words", "control"]
    pipeline, judge = bundle.load_pipeline(arguments.model_file), load_judge(arguments.judge_file)
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    if "judge" in only:
        fresh, passed = judge_on_drawings(judge, 1000), look_alikes_passed(judge, 1000)
        results["judge"] = {"fresh": fresh.as_json(), "look_alikes_passed": passed.hits, "look_alikes": passed.n}
        say(f"judge: {fresh.value:.4f} of {fresh.n} fresh characters (bar 0.99), {passed.hits} of {passed.n} passed")
    if "words" in only:
        results["in_words"] = words_bars(pipeline, judge, arguments.samples, arguments.pictures)
    if "control" in only:
        sizes = arguments.subject_samples, arguments.control_steps
        results["positive_control"] = control_bars(pipeline, judge, arguments.subjects, *sizes, arguments.pictures)
    results["parameters"] = parameters(pipeline)
    results["file_bytes"] = arguments.model_file.stat().st_size
    results["training"] = training_of(arguments.checkpoint) or results.get("training", {})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
