"""The main job on the shipped model: find -> save -> load -> apply two concepts alone and together -> sample -> judge.

Writes the mask files, a labelled grid `demo.png`, the gist of it as `brief.png`, and `demo.json` into one folder.
Everything is done twice, for masks at their own tokens and for masks everywhere, and beside the positive control (plain
K and V fine-tuning). The masks at own tokens are tuned together at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from ..baselines import FineTuning, class_examples, fine_tune, subject_examples
from ..judge import Judge
from ..measure import Measuring, all_described, all_shown, class_leak, measure, measure_subject, subject_shown
from ..picture_grid import GridRow, save_grid
from ..progress import steps_on
from ..references import Captioned, references, together
from ..sampling import examples, model_of
from .report import ByMeasure, DemoConcept, DemoResults, brief, grid_rows, save_report, versions

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
    concepts = {where: [_find(demo, subject, where) for subject in subjects] for where in WHERES}
    masks = {where: [concept.mask for concept in concepts[where]] for where in WHERES}
    pairs = {str(where): _pair(demo, subjects, masks[where], where) for where in WHERES}
    tuned = _tune(demo, subjects, masks["own tokens"])
    pairs["own tokens, tuned together"] = _pair(demo, subjects, tuned, "tuned together")
    pictures = {where: [_pictures(demo, subject, where)[0] for subject in subjects] for where in WHERES}
    with demo.measuring("full captions", 1) as measuring:
        full_caption = measure(measuring, all_described, subjects)
    control = _control(demo, subjects[0])
    results = DemoResults(subjects, pictures, untouched, concepts, pairs, full_caption, control)
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


def _find(demo: Demo, subject: Subject, where: Where) -> DemoConcept:
    """Find one concept, save it, load it back, and judge samples with the loaded mask."""
    pipeline, words = demo.pipeline, (subject.identifier, subject.class_word)
    settings = demo.settings.own if where == "own tokens" else demo.settings.everywhere
    with demo.phase(f"find {subject.identifier} {where}", settings.steps) as bar:
        result = find_concept_neurons(
            model_of(pipeline, where),
            examples(pipeline, *_pictures(demo, subject, where), [words]),
            None if where == "own tokens" else class_examples(pipeline, subject, demo.settings.class_pictures),
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            own_words=PHRASE,
            on_step=steps_on(bar),
            resume=demo.resume,
        )
    file = _save(demo, result.mask, where.replace(" ", "-"))
    mask = load_mask(file)
    return DemoConcept(mask, file, _measured(demo, subject, [(mask, 1.0)], where), result.seconds)


def _save(demo: Demo, mask: ConceptMask, suffix: str) -> Path:
    file = demo.out / "concept_masks" / f"{mask.identifier}-{mask.class_word}-{suffix}.safetensors"
    return save_mask(mask, file, "overwrite")


def _pictures(demo: Demo, subject: Subject, where: Where) -> Captioned:
    """What a search sees: at own tokens collages with other things too, which teach it what is not the subject's."""
    if where == "own tokens":
        return references(demo.pipeline, subject)
    return subject.reference_pictures(PICTURES)


def _tune(demo: Demo, subjects: Sequence[Subject], masks: Sequence[ConceptMask]) -> Sequence[ConceptMask]:
    """Joint steps on masks at own tokens, with collages of the subjects; the tuned masks are saved too."""
    words = [(subject.identifier, subject.class_word) for subject in subjects]
    make = partial(examples, demo.pipeline, concepts=words, rules=[mask.own_words for mask in masks])
    with demo.phase("tune together", demo.settings.joint.steps) as bar:
        result = tune_concept_masks(
            model_of(demo.pipeline, concepts=len(masks)),
            masks,
            [make(*_pictures(demo, subject, "own tokens")) for subject in subjects],
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


def _control(demo: Demo, subject: Subject) -> ByMeasure:
    """Fine-tune a copy's K and V; whether the subject and the class prompt then show the subject."""
    settings = demo.settings
    with demo.phase("positive control", settings.control_steps) as bar:
        tuned = fine_tune(
            demo.pipeline,
            subject_examples(demo.pipeline, subject),
            class_examples(demo.pipeline, subject, settings.class_pictures),
            FineTuning(settings.control_steps, batch=settings.control_batch, on_step=lambda step, loss: bar.update()),
        )
    with demo.measuring("positive control", 2, tuned) as measuring:
        asks = {"subject_share": subject_shown, "class_share": class_leak}
        return {name: measure(measuring, ask, subject) for name, ask in asks.items()}
