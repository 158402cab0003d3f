"""The cells of the benchmark by name, and how each is made.

`single/<method>/<where>/<identifier>/<seed>` and `several/<method>/<where>/<identifier+identifier+...>/<seed>`.
`where` is "everywhere" or "own tokens". The first four subjects chose settings and rates; the last four are untouched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import ConesError
from ...masks.concept_mask import ConceptMask, Where
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import SUBJECTS, Subject, subject_named
from ..judge import Judge
from ..measure import Measuring
from . import baselines, measures, multi_subject, searches
from .budget import Budget
from .inputs import BenchmarkMethod, Implanted, MethodInputs, keep, kept_mask, kept_weights, method_inputs
from .searches import searched

CHOOSING, UNTOUCHED = SUBJECTS[:4], SUBJECTS[4:]
SEEDS = (0, 1, 2)
DEFAULT = "learned"

METHODS: dict[Where, dict[str, BenchmarkMethod]] = {
    "own tokens": {
        "learned": searched("own tokens"),
        "cones": searched("own tokens", "cones"),
        "taylor": searched("own tokens", "taylor"),
        "kv_finetune": baselines.kv_finetune_own_tokens,
        "textual_inversion": baselines.textual_inversion,
    },
    "everywhere": {
        "nothing": baselines.nothing,
        "learned": searched("everywhere"),
        "cones": searched("everywhere", "cones"),
        "taylor": searched("everywhere", "taylor"),
        "kv_finetune": baselines.kv_finetune,
        "lora": baselines.lora,
        "dreambooth": baselines.dreambooth,
    },
}
# searches with other settings, run on the first four subjects only
VARIANTS: dict[Where, dict[str, dict[str, Any]]] = {
    "own tokens": {
        "no sparsity": {"sparsity": 0.0},
        "sparsity 0.3": {"sparsity": 0.3},
        "sparsity 0.7": {"sparsity": 0.7},
        "rate 10": {"rate": 10.0},
        "text V": {"targets": "text V"},
        "text K": {"targets": "text K"},
        "identifier only": {"class_word": False},
        "half the steps": {"steps": 150},
    },
    "everywhere": {
        "sparsity 0.1, rate 10": {"sparsity": 0.1, "rate": 10.0},
        "sparsity 0.1, rate 20": {"sparsity": 0.1, "rate": 20.0},
        "sparsity 0.3, rate 20": {"sparsity": 0.3, "rate": 20.0},
        "sparsity 0.1, rate 10, distilled prior": {"distill": True, "sparsity": 0.1, "rate": 10.0},
        "sparsity 0.1, rate 10, with self-attention": {"targets": "text + self K+V", "sparsity": 0.1, "rate": 10.0},
        "sparsity 0.7": {"sparsity": 0.7},
        "distilled prior": {"distill": True},
    },
}
# made from the default's mask
RELATIVES: dict[Where, tuple[str, ...]] = {
    "own tokens": ("random", "float", "quaternary", "found everywhere"),
    "everywhere": ("random", "found at own tokens"),
}
LEVELS = {"float": None, "quaternary": 4}
FIRST = (
    *("single/learned/own", "single/kv_finetune/every", "several/oracle", "several/union/own", "several/tuned/own"),
    "several/kv_finetune",
)
SECOND = {"learned", "kv_finetune"}


@dataclass(frozen=True, eq=False)
class World:
    """What every cell needs: the untouched pipeline, the judge, how much work, and a folder for what is kept."""

    pipeline: ToyPipeline
    judge: Judge
    budget: Budget
    folder: Path

    def measuring(self, implanted: Implanted, seed: int) -> Measuring:
        """How a cell samples."""
        return measures.measuring(implanted, self.judge, self.budget, seed)

    def kept(self, method: str, where: str, subject: Subject, seed: int) -> Path:
        """Where what a method left is kept, without the suffix."""
        return self.folder / "kept" / f"{method}-{where}-{subject.identifier}-{seed}".replace(" ", "-")


@cache
def inputs_of(world: World, subject: Subject, seed: int) -> MethodInputs:
    """A subject's pictures, which all methods share."""
    return method_inputs(world.pipeline, subject, seed, world.budget)


@cache
def _unseen(world: World, subject: Subject) -> measures.Unseen:
    return measures.unseen(world.pipeline, subject, world.budget)


@cache
def _unrelated(world: World, seed: int) -> Tensor:
    return measures.unrelated(world.measuring(Implanted(world.pipeline), seed))


def plan() -> list[str]:
    """Names of all cells of the full run, what matters most first, so that a run that is stopped is of use."""
    singles = {seed: _singles(UNTOUCHED, seed, METHODS, RELATIVES) for seed in SEEDS}
    several = [name for size in (2, 3, 4) for seed, group in _groups(size) for name in _severals(group, seed)]
    every = [*(name for seed in SEEDS for name in singles[seed]), *several]
    first = [name for name in every if name.startswith(FIRST)]
    second = [name for name in every if name.split("/")[1] in SECOND]
    variants, chosen = _singles(CHOOSING, 0, VARIANTS), _singles(CHOOSING, 0, METHODS, RELATIVES)
    return list(dict.fromkeys([*first, *singles[0], *several, *variants, *second, *every, *chosen]))


def _singles(subjects: Sequence[Subject], seed: int, *tables: Mapping[Where, Iterable[str]]) -> list[str]:
    return [
        f"single/{method}/{where}/{subject.identifier}/{seed}"
        for subject in subjects
        for where in METHODS
        for table in tables
        for method in table[where]
    ]


def _groups(size: int) -> Iterator[tuple[int, tuple[Subject, ...]]]:
    """Every group of untouched subjects once, seeds in turn; the one group of four with every seed."""
    groups = list(combinations(UNTOUCHED, size))
    for i, group in enumerate(groups if len(groups) > 1 else groups * len(SEEDS)):
        yield SEEDS[i % len(SEEDS)], group


SEVERAL: dict[str, Callable[[multi_subject.SubjectGroup], measures.Figures]] = {
    "oracle/everywhere": multi_subject.oracle,
    "union/own tokens": partial(multi_subject.union, "own tokens"),
    "tuned/own tokens": partial(multi_subject.tuned, "own tokens"),
    "union/everywhere": partial(multi_subject.union, "everywhere"),
    "tuned/everywhere": partial(multi_subject.tuned, "everywhere"),
    "kv_finetune/everywhere": partial(multi_subject.kv_finetune, collages=False),
    "kv_finetune with collages/everywhere": partial(multi_subject.kv_finetune, collages=True),
    "lora union/everywhere": multi_subject.lora_union,
    "sequential kv_finetune/everywhere": multi_subject.sequential,
}
MORE_THAN_TWO = {"oracle/everywhere", "union/own tokens", "tuned/own tokens"}


def _severals(group: tuple[Subject, ...], seed: int) -> Iterator[str]:
    for name in SEVERAL:
        if len(group) == 2 or name in MORE_THAN_TWO:
            yield f"several/{name}/{'+'.join(subject.identifier for subject in group)}/{seed}"


def run_cell(world: World, name: str) -> dict[str, Any]:
    """Make one cell: its name, settings, seed, figures and seconds. ConesError for a name that is no cell's."""
    started = time.monotonic()
    try:
        kind, method, where, words, number = name.split("/")
        subjects, seed = tuple(subject_named(word) for word in words.split("+")), int(number)
    except (ValueError, KeyError) as error:
        raise ConesError(f"{name!r} is not the name of a cell ({error}); --list prints them") from error
    settings: dict[str, Any] = {}
    if kind == "single" and len(subjects) == 1:
        implanted = implant(world, method, where, subjects[0], seed)
        settings = implanted.settings
        new, plain = _unseen(world, subjects[0]), _unrelated(world, seed)
        figures = measures.single(implanted, subjects[0], world.measuring(implanted, seed), new, plain)
    elif kind == "several" and f"{method}/{where}" in SEVERAL:
        figures = SEVERAL[f"{method}/{where}"](group_of(world, subjects, seed))
    else:
        raise ConesError(f"{name!r} is not the name of a cell; --list prints them")
    return {
        "name": name,
        "settings": settings | {"budget": asdict(world.budget)},
        "seed": seed,
        "figures": figures,
        "cell_seconds": round(time.monotonic() - started, 1),
    }


def implant(world: World, method: str, where: Any, subject: Subject, seed: int) -> Implanted:
    """Run a method and keep what it leaves."""
    implanted = _method(world, method, where, subject, seed)(inputs_of(world, subject, seed))
    if method in (DEFAULT, "lora"):
        keep(implanted, world.kept(method, where, subject, seed))
    return implanted


def _method(world: World, method: str, where: Where, subject: Subject, seed: int) -> BenchmarkMethod:
    """A method of a table, or what is made of a default search's mask."""
    if method in METHODS.get(where, {}):
        return METHODS[where][method]
    if method in VARIANTS.get(where, {}):
        return searched(where, **VARIANTS[where][method])
    if method not in RELATIVES.get(where, ()):
        known = ", ".join((*METHODS.get(where, ()), *VARIANTS.get(where, ()), *RELATIVES.get(where, ())))
        raise ConesError(f"no method {method!r} {where}; there are {known}")
    if method in ("random", *LEVELS):
        mask = mask_of(world, where, subject, seed)
        return searches.random(mask) if method == "random" else searches.relaxed(mask, LEVELS[method])
    other: Where = "own tokens" if where == "everywhere" else "everywhere"
    moved = replace(mask_of(world, other, subject, seed), where=where)
    return lambda inputs: searches.masked(inputs, moved, 0.0, {})


def mask_of(world: World, where: Where, subject: Subject, seed: int) -> ConceptMask:
    """The default search's mask, from an earlier cell or found now."""
    mask = kept_mask(world.kept(DEFAULT, where, subject, seed)) or implant(world, DEFAULT, where, subject, seed).mask
    assert mask is not None
    return mask


def group_of(world: World, subjects: tuple[Subject, ...], seed: int) -> multi_subject.SubjectGroup:
    """Several subjects, with what single cells left of each."""

    def weights_of(subject: Subject, method: str) -> dict[str, Any]:
        kept = kept_weights(world.kept(method, "everywhere", subject, seed))
        return kept or dict(implant(world, method, "everywhere", subject, seed).pipeline.unet.state_dict())

    def mask_at(subject: Subject, where: Where) -> ConceptMask:
        return mask_of(world, where, subject, seed)

    inputs = tuple(inputs_of(world, subject, seed) for subject in subjects)
    return multi_subject.SubjectGroup(world.judge, subjects, inputs, mask_at, weights_of)
