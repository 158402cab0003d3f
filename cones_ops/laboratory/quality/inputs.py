"""What every method of the table gets, what it leaves behind, and what is kept for cells of several subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ...masks.concept_mask import ConceptMask
from ...search.objective import Examples
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject
from .. import baselines
from ..judge import Judge
from ..references import Captioned, class_references, references
from ..sampling import OwnWeights, examples, model_of
from .budget import Budget

HALF = 2  # bytes of a number in fp16, as other methods' files hold it


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
