"""The main job on the shipped model: find -> save -> load -> apply two concepts alone and together -> sample -> judge.

Writes the mask files, a labelled grid `demo.png`, the gist of it as `brief.png`, and `demo.json` into one folder.
Everything is done twice, for masks at their own tokens and for masks everywhere, and beside the positive control (plain
K and V fine-tuning). The masks at own tokens are tuned together at the end.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...masks.concept_mask import ConceptMask, Where
from ...masks.mask_file import load_mask, save_mask
from ...search.find import find_concept_neurons
from ...search.joint import tune_concept_masks, tuning
from ...search.settings import SearchSettings, Step, recommended
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject, subject
from .. import measure
from ..baselines import FineTuning, class_examples, fine_tune, subject_examples
from ..judge import Judge
from ..measure import Measured, Measuring
from ..picture_grid import GridRow, save_grid
from ..references import Captioned, references, together
from ..sampling import examples, model_of
from .report import brief, concept_entry, control_entry, grid_rows, pair_entry, versions
from .results import DemoConcept, Judged

log = logging.getLogger("cones")

WHERES: tuple[Where, ...] = ("own tokens", "everywhere")
PICTURES = 5  # of the subject alone, for a search everywhere, where collages win nothing


@dataclass(frozen=True)
class DemoSettings:
    """How much work the demo does."""

    identifiers: tuple[str, str] = ("sks", "zwx")
    samples: int = 32
    sampling_steps: int = 20
    own: SearchSettings = field(default_factory=lambda: recommended("own tokens"))
    everywhere: SearchSettings = field(default_factory=lambda: replace(recommended("everywhere"), steps=200, batch=8))
    joint: SearchSettings = field(default_factory=tuning)
    class_pictures: int = 20
    control_steps: int = 150
    control_batch: int = 8


FULL = DemoSettings()
QUICK = DemoSettings(
    samples=8,
    sampling_steps=12,
    own=replace(recommended("own tokens"), steps=100, held_out=32),
    everywhere=replace(recommended("everywhere"), steps=60, batch=8, held_out=16),
    joint=replace(tuning(), steps=60, held_out=16),
    class_pictures=8,
    control_steps=60,
    control_batch=4,
)


@dataclass(frozen=True)
class Demo:
    """What the demo works with: world, settings, folder, the clock of its phases."""

    pipeline: ToyPipeline
    judge: Judge
    settings: DemoSettings
    out: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[tqdm[Any]]:
        """A progress bar; the time is added to the phase's."""
        started = time.monotonic()
        with tqdm(total=total, desc=name) as bar:
            yield bar
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def measuring(self, bar: tqdm[Any]) -> Measuring:
        """How to measure, with progress on `bar`."""
        settings = self.settings
        return Measuring(self.pipeline, self.judge, settings.samples, settings.sampling_steps, on_batch=bar.update)


def run(pipeline: ToyPipeline, judge: Judge, out: Path, settings: DemoSettings = FULL) -> dict[str, Any]:
    """Run everything, write pictures, `demo.json` and the masks into `out`; returns the JSON's content."""
    started = time.monotonic()
    demo = Demo(pipeline, judge, settings, out)
    subjects = [subject(identifier) for identifier in settings.identifiers]
    before = [_judged(demo, one, (), "sample before") for one in subjects]
    found = {where: [_find(demo, one, where) for one in subjects] for where in WHERES}
    masks = {where: [one.mask for one in found[where]] for where in WHERES}
    pairs: dict[str, Judged] = {where: _pair(demo, subjects, masks[where], where) for where in WHERES}
    tuned = _tune(demo, subjects, masks["own tokens"])
    pairs["own tokens, tuned together"] = _pair(demo, subjects, tuned, "tuned together")
    full_caption = _full_caption(demo, subjects)
    control = _control(demo, subjects[0])
    rows = grid_rows(
        {where: [_pictures(demo, one, where)[0] for one in subjects] for where in WHERES},
        subjects,
        before,
        found,
        pairs,
        full_caption,
        control,
    )
    title = GridRow("Cones demo: a framed sample shows what was asked, by the judge")
    save_grid([title, *rows], out / "demo.png")
    save_grid([title, *brief(rows)], out / "brief.png")
    report = {
        "concepts": [concept_entry(one, b) for ones in found.values() for one, b in zip(ones, before, strict=True)],
        "pair": [pair_entry(where, pair, full_caption) for where, pair in pairs.items()],
        "positive_control": control_entry(subjects[0], before[0][0], control),
        "samples_per_share": settings.samples,
        "seconds_by_phase": {name: round(value, 1) for name, value in demo.seconds.items()},
        "seconds_total": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    (out / "demo.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _judged(demo: Demo, one: Subject, masks: tuple[tuple[ConceptMask, float], ...], phase: str) -> Judged:
    """Subject shown, class leak, second object obeyed."""
    with demo.phase(f"{phase} {one.identifier}", 3 * demo.settings.samples) as bar:
        measuring = demo.measuring(bar)
        return (
            measure.subject_shown(measuring, one, masks),
            measure.class_leak(measuring, one, masks),
            measure.second_object(measuring, one, masks),
        )


def _find(demo: Demo, one: Subject, where: Where) -> DemoConcept:
    """Find one concept, save it, load it back, and judge samples with the loaded mask."""
    settings = demo.settings.own if where == "own tokens" else demo.settings.everywhere
    model = model_of(demo.pipeline, where)
    with demo.phase(f"find {one.identifier} {where}", settings.steps) as bar:
        prior = None if where == "own tokens" else class_examples(demo.pipeline, one, demo.settings.class_pictures)

        def on_step(step: Step) -> None:
            bar.set_postfix(loss=f"{step.loss:.4f}", phase=step.phase)
            bar.update(step.phase == "search")

        result = find_concept_neurons(
            model,
            examples(demo.pipeline, *_pictures(demo, one, where), [(one.identifier, one.class_word)]),
            prior,
            identifier=one.identifier,
            class_word=one.class_word,
            settings=settings,
            on_step=on_step,
        )
    file = demo.out / "concept_masks" / f"{one.identifier}-{one.class_word}-{where.replace(' ', '-')}.safetensors"
    save_mask(result.mask, file, "overwrite")
    mask = load_mask(file)
    return DemoConcept(one, where, result, mask, file, *_judged(demo, one, ((mask, 1.0),), f"sample {where}"))


def _pictures(demo: Demo, one: Subject, where: Where) -> Captioned:
    """What a search sees: at own tokens collages with other things too, which teach it what is not the subject's."""
    if where == "own tokens":
        return references(demo.pipeline, one)
    drawn, captions = one.reference_pictures(PICTURES)
    return torch.from_numpy(drawn), captions


def _tune(demo: Demo, subjects: Sequence[Subject], masks: Sequence[ConceptMask]) -> Sequence[ConceptMask]:
    """Joint steps on masks at own tokens, with collages of the subjects; the tuned masks are saved too."""
    words = [(one.identifier, one.class_word) for one in subjects]
    make = partial(examples, demo.pipeline, concepts=words)
    with demo.phase("tune together", demo.settings.joint.steps) as bar:

        def on_step(step: Step) -> None:
            bar.update()

        result = tune_concept_masks(
            model_of(demo.pipeline, concepts=len(masks)),
            masks,
            [make(*_pictures(demo, one, "own tokens")) for one in subjects],
            make(*together(subjects)),
            settings=demo.settings.joint,
            on_step=on_step,
        )
    for mask in result.masks:
        name = f"{mask.identifier}-{mask.class_word}-tuned-together.safetensors"
        save_mask(mask, demo.out / "concept_masks" / name, "overwrite")
    return result.masks


def _pair(demo: Demo, subjects: Sequence[Subject], masks: Sequence[ConceptMask], name: str) -> Judged:
    """With both masks loaded: the first alone, the second alone, both in one picture."""
    shut = [(mask, 1.0) for mask in masks]
    with demo.phase(f"sample pair {name}", 3 * demo.settings.samples) as bar:
        measuring = demo.measuring(bar)
        first, second = (measure.subject_shown(measuring, one, shut) for one in subjects)
        return first, second, measure.all_shown(measuring, subjects, shut)


def _full_caption(demo: Demo, subjects: list[Subject]) -> Measured:
    with demo.phase("sample full captions", demo.settings.samples) as bar:
        return measure.all_described(demo.measuring(bar), subjects)


def _control(demo: Demo, one: Subject) -> tuple[Measured, Measured]:
    """Fine-tune a copy's K and V; whether the subject and the class prompt then show the subject."""
    settings = demo.settings
    with demo.phase("positive control", settings.control_steps) as bar:
        tuned = fine_tune(
            demo.pipeline,
            subject_examples(demo.pipeline, one),
            class_examples(demo.pipeline, one, settings.class_pictures),
            FineTuning(settings.control_steps, batch=settings.control_batch, on_step=lambda step, loss: bar.update()),
        )
    with demo.phase("sample positive control", 2 * settings.samples) as bar:
        measuring = replace(demo.measuring(bar), pipeline=tuned)
        return measure.subject_shown(measuring, one), measure.class_leak(measuring, one)
