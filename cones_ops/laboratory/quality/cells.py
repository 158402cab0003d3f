"""The cells of the benchmark by name, and how each is made.

`single/<method>/<where>/<identifier>/<seed>` and `several/<method>/<where>/<identifier+identifier+...>/<seed>`.
`where` is "everywhere" or "own tokens". The first four subjects chose settings and rates; the last four are untouched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from ...errors import ConesError
from ...masks.concept_mask import ConceptMask, Where
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import SUBJECTS, Subject, subject
from ..judge import Judge
from . import baselines, measures, multi_subject, searches
from .budget import Budget
from .inputs import BenchmarkMethod, Implanted, MethodInputs, keep, kept_mask, kept_weights, method_inputs
from .searches import searched

CHOOSING, UNTOUCHED = SUBJECTS[:4], SUBJECTS[4:]
SEEDS = (0, 1, 2)
DEFAULT = "learned"

OWN: dict[str, BenchmarkMethod] = {
    "learned": searched("own tokens"),
    "cones": searched("own tokens", "cones"),
    "taylor": searched("own tokens", "taylor"),
    "kv_finetune": baselines.kv_finetune_own_tokens,
    "textual_inversion": baselines.textual_inversion,
}
EVERYWHERE: dict[str, BenchmarkMethod] = {
    "nothing": baselines.nothing,
    "learned": searched("everywhere"),
    "cones": searched("everywhere", "cones"),
    "taylor": searched("everywhere", "taylor"),
    "kv_finetune": baselines.kv_finetune,
    "lora": baselines.lora,
    "dreambooth": baselines.dreambooth,
}
TABLES: dict[Where, dict[str, BenchmarkMethod]] = {"own tokens": OWN, "everywhere": EVERYWHERE}
# settings looked at on the first four subjects only
VARIANTS: dict[Where, dict[str, BenchmarkMethod]] = {
    "own tokens": {
        "no sparsity": searched("own tokens", sparsity=0.0),
        "sparsity 0.3": searched("own tokens", sparsity=0.3),
        "sparsity 0.7": searched("own tokens", sparsity=0.7),
        "rate 10": searched("own tokens", rate=10.0),
        "text V": searched("own tokens", targets="text V"),
        "text K": searched("own tokens", targets="text K"),
        "identifier only": searched("own tokens", class_word=False),
        "half the steps": searched("own tokens", steps=150),
    },
    "everywhere": {
        "sparsity 0.1, rate 10": searched("everywhere", sparsity=0.1, rate=10.0),
        "sparsity 0.1, rate 20": searched("everywhere", sparsity=0.1, rate=20.0),
        "sparsity 0.3, rate 20": searched("everywhere", sparsity=0.3, rate=20.0),
        "sparsity 0.1, rate 10, distilled prior": searched("everywhere", distill=True, sparsity=0.1, rate=10.0),
        "sparsity 0.1, rate 10, with self-attention": searched(
            "everywhere", targets="text + self K+V", sparsity=0.1, rate=10.0
        ),
        "sparsity 0.7": searched("everywhere", sparsity=0.7),
        "distilled prior": searched("everywhere", distill=True),
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


@dataclass(frozen=True)
class World:
    """What every cell needs: the untouched pipeline, the judge, how much work, and a folder for what is kept."""

    pipeline: ToyPipeline
    judge: Judge
    budget: Budget
    folder: Path
    made: dict[Any, Any] = field(default_factory=dict)  # what several cells need and is the same for all of them

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, the first time."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def inputs(self, one: Subject, seed: int) -> MethodInputs:
        """A subject's pictures."""
        key = ("inputs", one, seed)
        made: MethodInputs = self.once(key, lambda: method_inputs(self.pipeline, one, seed, self.budget))
        return made

    def figures(self, implanted: Implanted, one: Subject, seed: int) -> measures.Figures:
        """Everything measured of one subject."""
        untouched = measures.measuring(Implanted(self.pipeline), self.judge, self.budget, seed)
        plain = self.once(("unrelated", seed), lambda: measures.unrelated(untouched))
        new = self.once(("unseen", one), lambda: measures.unseen(self.pipeline, one, self.budget))
        how = measures.measuring(implanted, self.judge, self.budget, seed)
        return measures.single(implanted, one, how, new, self.budget, plain)


def plan() -> list[str]:
    """Names of all cells of the full run, what matters most first, so that a run that is stopped is of use."""
    singles = {seed: [name for one in UNTOUCHED for name in _singles(TABLES, one, seed)] for seed in SEEDS}
    several = [name for size in (2, 3, 4) for seed, group in _groups(size) for name in _severals(group, seed)]
    every = [*(name for seed in SEEDS for name in singles[seed]), *several]
    first = [name for name in every if name.startswith(FIRST)]
    second = [name for name in every if name.split("/")[1] in SECOND]
    variants = [name for one in CHOOSING for name in _singles(VARIANTS, one, 0)]
    chosen = [name for one in CHOOSING for name in _singles(TABLES, one, 0)]
    return list(dict.fromkeys([*first, *singles[0], *several, *variants, *second, *every, *chosen]))


def _singles(tables: dict[Where, dict[str, BenchmarkMethod]], one: Subject, seed: int) -> Iterator[str]:
    for where, table in tables.items():
        for name in (*table, *(RELATIVES[where] if tables is TABLES else ())):
            yield f"single/{name}/{where}/{one.identifier}/{seed}"


def _groups(size: int) -> Iterator[tuple[int, tuple[Subject, ...]]]:
    """Every group of untouched subjects once, seeds in turn; the one group of four with every seed."""
    groups = list(combinations(UNTOUCHED, size))
    for i, group in enumerate(groups if len(groups) > 1 else groups * len(SEEDS)):
        yield SEEDS[i % len(SEEDS)], group


SEVERAL: dict[str, Callable[[multi_subject.SubjectGroup], Any]] = {
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
            yield f"several/{name}/{'+'.join(one.identifier for one in group)}/{seed}"


def run_cell(world: World, name: str) -> dict[str, Any]:
    """Make one cell: its name, settings, seed, figures and seconds. ConesError for a name that is no cell's."""
    started = time.monotonic()
    try:
        kind, method, where, words, number = name.split("/")
        subjects, seed = tuple(subject(word) for word in words.split("+")), int(number)
    except (ValueError, KeyError) as error:
        raise ConesError(f"{name!r} is not the name of a cell ({error}); --list prints them") from error
    settings: dict[str, Any] = {}
    if kind == "single" and len(subjects) == 1:
        implanted = implant(world, method, where, subjects[0], seed)
        settings = implanted.settings
        found = world.figures(implanted, subjects[0], seed)
    elif kind == "several" and f"{method}/{where}" in SEVERAL:
        found = SEVERAL[f"{method}/{where}"](group_of(world, subjects, seed))
    else:
        raise ConesError(f"{name!r} is not the name of a cell; --list prints them")
    seconds = round(time.monotonic() - started, 1)
    told = {"settings": settings | {"budget": asdict(world.budget)}, "seed": seed, "figures": found}
    return {"name": name, **told, "cell_seconds": seconds}


def implant(world: World, method: str, where: Any, one: Subject, seed: int) -> Implanted:
    """Run a method and keep what it leaves."""
    if method in RELATIVES.get(where, ()):
        run = _relative(world, method, where, one, seed)
    else:
        known = TABLES.get(where, {}) | VARIANTS.get(where, {})
        if method not in known:
            raise ConesError(f"no method {method!r} {where}; there are {', '.join(known)}, random")
        run = known[method]
    implanted = run(world.inputs(one, seed))
    if method in (DEFAULT, "lora"):
        keep(implanted, world.folder / "kept", _kept(method, where, one, seed))
    return implanted


def _relative(world: World, method: str, where: Where, one: Subject, seed: int) -> BenchmarkMethod:
    """What is made of a default search's mask."""

    def found(_: MethodInputs) -> ConceptMask:
        return mask_of(world, where, one, seed)

    if method == "random":
        return searches.random(found)
    if method in LEVELS:
        return searches.relaxed(found, LEVELS[method])
    other: Where = "own tokens" if where == "everywhere" else "everywhere"
    return lambda inputs: searches.masked(inputs, replace(mask_of(world, other, one, seed), where=where), 0.0, {})


def mask_of(world: World, where: Where, one: Subject, seed: int) -> ConceptMask:
    """The default search's mask, from an earlier cell or found now."""
    kept = kept_mask(world.folder / "kept", _kept(DEFAULT, where, one, seed))
    mask = kept or implant(world, DEFAULT, where, one, seed).mask
    assert mask is not None
    return mask


def group_of(world: World, subjects: tuple[Subject, ...], seed: int) -> multi_subject.SubjectGroup:
    def weights_of(one: Subject, method: str) -> dict[str, Any]:
        kept = kept_weights(world.folder / "kept", _kept(method, "everywhere", one, seed))
        return kept or dict(implant(world, method, "everywhere", one, seed).pipeline.unet.state_dict())

    each: tuple[MethodInputs, ...] = tuple(world.inputs(one, seed) for one in subjects)
    masks = lambda one, where: mask_of(world, where, one, seed)  # noqa: E731
    return multi_subject.SubjectGroup(
        world.pipeline, world.judge, subjects, each, seed, world.budget, masks, weights_of
    )


def _kept(method: str, where: str, one: Subject, seed: int) -> str:
    return f"{method}-{where}-{one.identifier}-{seed}".replace(" ", "-")
