"""The main job on the shipped model: find -> save -> load -> apply two concepts alone and together -> sample -> judge.

Writes the mask files, a labelled grid `demo.png`, the gist of it as `brief.png`, and `demo.json` into one folder.
The masks act at their own tokens, and are tuned together at the end. The benchmark of quality has what the demo leaves
out: masks everywhere, other methods, held-out subjects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...hosts.diffusers.apply_masks import Strengths
from ...masks.concept_mask import ConceptMask, Where
from ...masks.fingerprint import fingerprint
from ...masks.mask_file import load_mask, save_mask
from ...models.phrases import PHRASE
from ...search.find import find_concept_neurons
from ...search.joint import tune_concept_masks, tuning
from ...search.resume import Resume, resuming
from ...search.settings import SearchSettings, recommended
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject, subject_named
from ..judge import Judge
from ..measure import Measuring, all_described, all_shown, measure, measure_subject, subject_shown
from ..picture_grid import GridRow, save_grid
from ..progress import steps_on
from ..references import Captioned, references, together
from ..sampling import STEPS, examples, model_of
from .report import ByMeasure, DemoConcept, DemoResults, brief, grid_rows, save_report, versions

WHERE: Where = "own tokens"


@dataclass(frozen=True)
class DemoSettings:
    """How much work the demo does: one subject alone, or two alone and together."""

    identifiers: tuple[str, ...] = ("sks", "zwx")
    samples: int = 16
    sampling_steps: int = STEPS
    search: SearchSettings = field(default_factory=lambda: recommended(WHERE))
    joint: SearchSettings = field(default_factory=tuning)


FULL = DemoSettings()
QUICK = DemoSettings(("sks",), samples=8)


@dataclass(frozen=True)
class Demo:
    """What the demo works with: world, settings, folder, the clock of its phases."""

    pipeline: ToyPipeline
    judge: Judge
    settings: DemoSettings
    out: Path
    resume: Resume
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[tqdm[Any]]:
        """A progress bar; `seconds` keeps the time that the phase took."""
        started = time.monotonic()
        with tqdm(total=total, desc=name) as bar:
            yield bar
        self.seconds[name] = round(time.monotonic() - started, 1)

    @contextmanager
    def measuring(self, name: str, measures: int, pipeline: ToyPipeline | None = None) -> Iterator[Measuring]:
        """A phase that samples for so many measures: how to measure, with progress on a bar."""
        settings = self.settings
        with self.phase(f"sample {name}", measures * settings.samples) as bar:
            yield Measuring(
                pipeline or self.pipeline, self.judge, settings.samples, settings.sampling_steps, on_batch=bar.update
            )


def run(pipeline: ToyPipeline, judge: Judge, out: Path, settings: DemoSettings = FULL) -> dict[str, Any]:
    """Run everything, write pictures, `demo.json` and the masks into `out`; returns the JSON's content.

    A demo that was stopped resumes its searches and tuning, whose states are in `out` until it is done.
    """
    inputs = (settings, fingerprint(dict(pipeline.unet.named_parameters())))
    with resuming(out / "states", inputs) as resume:
        return _run(Demo(pipeline, judge, settings, out, resume))


def _run(demo: Demo) -> dict[str, Any]:
    started, settings, out = time.monotonic(), demo.settings, demo.out
    subjects = [subject_named(identifier) for identifier in settings.identifiers]
    untouched = [_measured(demo, subject, (), "before") for subject in subjects]
    shown = [references(demo.pipeline, subject) for subject in subjects]
    concepts = [_find(demo, *each) for each in zip(subjects, shown, strict=True)]
    pairs: dict[str, ByMeasure] = {}
    full_caption = None
    if len(subjects) == 2:
        masks = [concept.mask for concept in concepts]
        pairs[str(WHERE)] = _pair(demo, subjects, masks, "found apart")
        pairs["own tokens, tuned together"] = _pair(
            demo, subjects, _tune(demo, subjects, shown, masks), "tuned together"
        )
        with demo.measuring("full captions", 1) as measuring:
            full_caption = measure(measuring, all_described, subjects)
    results = DemoResults(
        subjects, {WHERE: [pictures for pictures, _ in shown]}, untouched, {WHERE: concepts}, pairs, full_caption
    )
    rows = grid_rows(results)
    title = GridRow("Cones demo: a framed sample shows what was asked, by the judge")
    save_grid([title, *rows], out / "demo.png")
    save_grid([title, *brief(rows)], out / "brief.png")
    return save_report(
        results,
        out / "demo.json",
        samples_per_share=settings.samples,
        seconds_by_phase=demo.seconds,
        seconds_total=round(time.monotonic() - started, 1),
        versions=versions(),
    )


def _measured(demo: Demo, subject: Subject, masks: Strengths, phase: str) -> ByMeasure:
    with demo.measuring(f"{phase} {subject.identifier}", 3) as measuring:
        return measure_subject(measuring, subject, masks)


def _find(demo: Demo, subject: Subject, shown: Captioned) -> DemoConcept:
    """Find one concept, save it, load it back, and judge samples with the loaded mask."""
    pipeline, words = demo.pipeline, (subject.identifier, subject.class_word)
    with demo.phase(f"find {subject.identifier}", demo.settings.search.steps) as bar:
        result = find_concept_neurons(
            model_of(pipeline, WHERE),
            examples(pipeline, *shown, [words]),
            identifier=words[0],
            class_word=words[1],
            settings=demo.settings.search,
            own_words=PHRASE,
            on_step=steps_on(bar),
            resume=demo.resume,
        )
    file = _save(demo, result.mask, WHERE.replace(" ", "-"))
    mask = load_mask(file)
    return DemoConcept(mask, file, _measured(demo, subject, [(mask, 1.0)], "with its mask"), result.seconds)


def _save(demo: Demo, mask: ConceptMask, suffix: str) -> Path:
    file = demo.out / "concept_masks" / f"{mask.identifier}-{mask.class_word}-{suffix}.safetensors"
    return save_mask(mask, file, "overwrite")


def _tune(
    demo: Demo, subjects: Sequence[Subject], shown: Sequence[Captioned], masks: Sequence[ConceptMask]
) -> Sequence[ConceptMask]:
    """Joint steps on masks at own tokens, with collages of the subjects; the tuned masks are saved too."""
    words = [(subject.identifier, subject.class_word) for subject in subjects]
    make = partial(examples, demo.pipeline, concepts=words, rules=[mask.own_words for mask in masks])
    with demo.phase("tune together", demo.settings.joint.steps) as bar:
        result = tune_concept_masks(
            model_of(demo.pipeline, concepts=len(masks)),
            masks,
            [make(*captioned) for captioned in shown],
            make(*together(subjects)),
            settings=demo.settings.joint,
            on_step=steps_on(bar),
            resume=demo.resume,
        )
    for mask in result.masks:
        _save(demo, mask, "tuned-together")
    return result.masks


def _pair(demo: Demo, subjects: Sequence[Subject], masks: Sequence[ConceptMask], name: str) -> ByMeasure:
    """With both masks loaded: the first alone, the second alone, both in one picture."""
    shut = [(mask, 1.0) for mask in masks]
    with demo.measuring(f"pair {name}", 3) as measuring:
        first, second = (measure(measuring, subject_shown, subject, shut) for subject in subjects)
        both = measure(measuring, all_shown, subjects, shut)
        return {"first_alone": first, "second_alone": second, "both": both}
