"""What every method of the table gets, what it leaves behind, and what is kept for cells of several subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...masks.concept_mask import ConceptMask
from ...masks.mask_file import load_mask, save_mask
from ...search.objective import Examples
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject
from .. import baselines
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


@dataclass(frozen=True)
class MethodInputs:
    """What a method gets: the untouched pipeline, the subject, its pictures and those of its class."""

    pipeline: ToyPipeline
    subject: Subject
    seed: int
    budget: Budget
    pictures: Captioned
    class_pictures: Captioned

    def examples(self, words: tuple[str, str] | None = None) -> Examples:
        """The subject's term; `words`: identifier and class word whose tokens are own."""
        return examples(self.pipeline, *self.pictures, [words or (self.subject.identifier, self.subject.class_word)])

    @property
    def prior(self) -> Examples:
        """The prior term."""
        return examples(self.pipeline, *self.class_pictures)

    def fine_tuning(self, rate: float) -> baselines.FineTuning:
        """Adam with the budget's steps."""
        return baselines.FineTuning(self.budget.steps, rate, self.budget.batch, self.seed)


def method_inputs(pipeline: ToyPipeline, subject: Subject, seed: int, budget: Budget) -> MethodInputs:
    """The pictures of one seed; other seeds have other drawings."""
    return MethodInputs(
        pipeline,
        subject,
        seed,
        budget,
        references(pipeline, subject, seed, budget.beside),
        class_references(pipeline, subject, budget.class_pictures, seed, budget.beside),
    )


BenchmarkMethod = Callable[[MethodInputs], Implanted]


def text_weights(pipeline: ToyPipeline) -> int:
    """How many text K and V weights there are."""
    return sum(weight.numel() for weight in model_of(pipeline).weights.values())


def keep(implanted: Implanted, path: Path) -> None:
    """Keep what a cell of several concepts wants again, the mask or the UNet's weights; `path` is without suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if implanted.mask is not None:
        save_mask(implanted.mask, Path(f"{path}.safetensors"), "overwrite")
    elif implanted.own_weights is None:
        save_file(dict(implanted.pipeline.unet.state_dict()), f"{path}.unet.safetensors")


def kept_mask(path: Path) -> ConceptMask | None:
    """A mask that was kept."""
    file = Path(f"{path}.safetensors")
    return load_mask(file) if file.is_file() else None


def kept_weights(path: Path) -> dict[str, torch.Tensor] | None:
    """Weights of a UNet that were kept."""
    file = Path(f"{path}.unet.safetensors")
    return load_file(file) if file.is_file() else None
