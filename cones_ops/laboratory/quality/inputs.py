"""What every method of the table gets (the same steps and pictures), what it leaves behind, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ...errors import ConesError
from ...masks.concept_mask import ConceptMask
from ...search.objective import Examples
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject
from .. import baselines
from ..judge import Judge
from ..measure import Measuring
from ..references import Captioned, class_references, references
from ..sampling import OwnWeights, examples, model_of

HALF = 2  # bytes of a number in fp16, as other methods' files hold it


@dataclass(frozen=True)
class Budget:
    """Of one run of the benchmark; every cell records its own."""

    steps: int = 300  # of every search and fine-tune
    batch: int = 8  # rows of each term in a step
    beside: int = 24  # collages of the subject with another thing, beside 6 pictures of it alone
    class_pictures: int = 8  # of the class alone in the prior, and as many collages as the subject has
    joint_steps: int = 200  # of tuning masks together
    samples: int = 16  # pictures per figure
    sampling_steps: int = 20
    held_out: int = 96  # paired draws of the subject's term, half as many of the prior's


FULL = Budget()
SMOKE = Budget(steps=40, batch=4, beside=4, class_pictures=4, joint_steps=30, samples=4, sampling_steps=10, held_out=16)


def budget_of(smoke: bool = False, beside: int | None = None) -> Budget:
    """The full run's budget or the smoke run's, maybe with another number of collages; ConesError below 0."""
    budget = SMOKE if smoke else FULL
    if beside is not None and beside < 0:
        raise ConesError(f"{beside} collages beside each subject; give 0 or more")
    return budget if beside is None else replace(budget, beside=beside)


@dataclass(frozen=True)
class Implanted:
    """A subject in a model: the pipeline to sample from, the mask to shut in it, or K and V of its own tokens."""

    pipeline: ToyPipeline
    mask: ConceptMask | None = None
    own_weights: OwnWeights | None = None
    density: float = 0.0  # neurons shut, as a share of all text K and V weights; of others, the share trained
    file_bytes: int = 0
    seconds: float = 0.0  # of the search or training alone
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class World:
    """What every cell needs: the untouched pipeline, the judge, how much work, and a folder for what is kept."""

    pipeline: ToyPipeline
    judge: Judge
    budget: Budget
    folder: Path

    def measuring(self, seed: int, implanted: Implanted | None = None) -> Measuring:
        """How cells sample a method's model, or the untouched one; other seeds of a cell have other noise."""
        pipeline = implanted.pipeline if implanted else self.pipeline
        own_weights = implanted.own_weights if implanted else None
        samples, steps = self.budget.samples, self.budget.sampling_steps
        return Measuring(pipeline, self.judge, samples, steps, 1000 * (seed + 1), own_weights=own_weights)


@dataclass(frozen=True)
class MethodInputs:
    """What a method gets: a subject, its pictures and those of its class; other seeds have other drawings."""

    world: World
    subject: Subject
    seed: int

    @property
    def pipeline(self) -> ToyPipeline:
        """The untouched pipeline."""
        return self.world.pipeline

    @cached_property
    def pictures(self) -> Captioned:
        """The subject alone and beside other things."""
        return references(self.pipeline, self.subject, self.seed, self.world.budget.beside)

    @cached_property
    def class_pictures(self) -> Captioned:
        """The same of its class, by the untouched model."""
        budget = self.world.budget
        return class_references(self.pipeline, self.subject, budget.class_pictures, self.seed, budget.beside)

    def examples(self, words: tuple[str, str] | None = None) -> Examples:
        """The subject's term; `words`: identifier and class word whose tokens are own."""
        return examples(self.pipeline, *self.pictures, [words or (self.subject.identifier, self.subject.class_word)])

    @property
    def prior(self) -> Examples:
        """The prior term."""
        return examples(self.pipeline, *self.class_pictures)

    def fine_tuning(self, rate: float) -> baselines.FineTuning:
        """Adam with the budget's steps."""
        return baselines.FineTuning(self.world.budget.steps, rate, self.world.budget.batch, self.seed)

    def kept(self, name: str, suffix: str = ".safetensors") -> Path:
        """The file that keeps what a method leaves, for cells of several subjects; its folder exists."""
        folder = self.world.folder / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}-{self.subject.identifier}-{self.seed}{suffix}".replace(" ", "-")


inputs_of = cache(MethodInputs)  # pictures are drawn once for all methods
BenchmarkMethod = Callable[[MethodInputs], Implanted]


def text_weights(pipeline: ToyPipeline) -> int:
    """How many text K and V weights there are."""
    return sum(weight.numel() for weight in model_of(pipeline).weights.values())
