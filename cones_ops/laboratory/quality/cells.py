"""The cells of the benchmark by name, and how each is made.

`single/<method>/<where>/<identifier>/<seed>` and `several/<method>/<where>/<identifier+identifier+...>/<seed>`.
`where` is "everywhere" or "own tokens". The first four subjects chose settings and rates; the others are held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from torch import Tensor

from ...errors import ConesError
from ...masks.concept_mask import Where
from ...toy_world.subjects import CHOOSING, HELD_OUT, Subject, subject_named
from . import baselines, measures, multi_subject, searches
from .inputs import BenchmarkMethod, World, inputs_of
from .searches import searched

SEEDS = (0, 1, 2)

METHODS: dict[Where, dict[str, BenchmarkMethod]] = {
    "own tokens": {
        "learned": partial(searches.default, "own tokens"),
        "cones": partial(searched, "own tokens", method="cones"),
        "taylor": partial(searched, "own tokens", method="taylor"),
        "kv_finetune": baselines.kv_finetune_own_tokens,
        "textual_inversion": baselines.textual_inversion,
        "random": partial(searches.random, "own tokens"),
        "float": partial(searches.relaxed, None),
        "quaternary": partial(searches.relaxed, 4),
        "found everywhere": partial(searches.moved, "everywhere", "own tokens"),
    },
    "everywhere": {
        "nothing": baselines.nothing,
        "learned": partial(searches.default, "everywhere"),
        "cones": partial(searched, "everywhere", method="cones"),
        "taylor": partial(searched, "everywhere", method="taylor"),
        "kv_finetune": baselines.kv_finetune,
        "lora": baselines.lora,
        "dreambooth": baselines.dreambooth,
        "random": partial(searches.random, "everywhere"),
        "found at own tokens": partial(searches.moved, "own tokens", "everywhere"),
    },
}
# searches with other settings, run on the first four subjects only
VARIANTS: dict[Where, dict[str, dict[str, Any]]] = {
    "own tokens": {
        "no sparsity": {"sparsity": 0.0},
        "sparsity 0.01": {"sparsity": 0.01},
        "sparsity 0.1": {"sparsity": 0.1},
        "rate 0.05": {"rate": 0.05},
        "rate 0.2": {"rate": 0.2},
        "text V": {"targets": "text V"},
        "text K": {"targets": "text K"},
        "identifier only": {"class_word": False},
        "half the steps": {"steps": 150},
    },
    "everywhere": {
        "no sparsity": {"sparsity": 0.0},
        "sparsity 0.1": {"sparsity": 0.1},
        "with self-attention": {"targets": "text + self K+V"},
        "distilled prior": {"distill": True},
    },
}
FIRST = (
    *("single/learned/own", "single/kv_finetune/every", "several/oracle", "several/union/own", "several/tuned/own"),
    "several/kv_finetune",
)
SECOND = {"learned", "kv_finetune"}


@cache
def _unseen(world: World, subject: Subject) -> measures.Unseen:
    return measures.unseen(world.pipeline, subject, world.budget)


@cache
def _unrelated(world: World, seed: int) -> Tensor:
    return measures.unrelated(world.measuring(seed))


def plan() -> list[str]:
    """Names of all cells of the full run, what matters most first, so that a run that is stopped is of use."""
    singles = {seed: _singles(HELD_OUT, seed, METHODS) for seed in SEEDS}
    several = [name for size in (2, 3, 4) for seed, group in _groups(size) for name in _severals(group, seed)]
    every = [*(name for seed in SEEDS for name in singles[seed]), *several]
    first = [name for name in every if name.startswith(FIRST)]
    second = [name for name in every if name.split("/")[1] in SECOND]
    variants, chosen = _singles(CHOOSING, 0, VARIANTS), _singles(CHOOSING, 0, METHODS)
    return list(dict.fromkeys([*first, *singles[0], *several, *variants, *second, *every, *chosen]))


def _singles(subjects: Sequence[Subject], seed: int, table: Mapping[Where, Iterable[str]]) -> list[str]:
    return [
        f"single/{method}/{where}/{subject.identifier}/{seed}"
        for subject in subjects
        for where, methods in table.items()
        for method in methods
    ]


def _groups(size: int) -> Iterator[tuple[int, tuple[Subject, ...]]]:
    """As many groups as there are held-out subjects, each subject in equally many; seeds in turn."""
    for i in range(len(HELD_OUT)):
        yield SEEDS[i % len(SEEDS)], tuple((HELD_OUT * 2)[i : i + size])


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
        inputs = inputs_of(world, subjects[0], seed)
        implanted = method_named(method, where)(inputs)
        settings = implanted.settings
        unseen, unrelated = _unseen(world, subjects[0]), _unrelated(world, seed)
        figures = measures.single(implanted, subjects[0], world.measuring(seed, implanted), unseen, unrelated)
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


def method_named(method: str, where: Any) -> BenchmarkMethod:
    """A method of the tables."""
    methods, variants = METHODS.get(where, {}), VARIANTS.get(where, {})
    if method not in {**methods, **variants}:
        raise ConesError(f"no method {method!r} {where}; there are {', '.join((*methods, *variants))}")
    return methods[method] if method in methods else partial(searched, where, **variants[method])


def group_of(world: World, subjects: Sequence[Subject], seed: int) -> multi_subject.SubjectGroup:
    """Several subjects, whose pictures and masks are those of single cells."""
    return multi_subject.SubjectGroup(tuple(inputs_of(world, subject, seed) for subject in subjects))
