"""Apply concept masks to a MODEL: checked first, then everywhere (weight_patch.py) or at own tokens (token_hooks.py).

Always on a clone; the user's own model is never edited. Strength 0, or no masks, adds nothing at all.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks import base
from ....cones_ops.masks.concept_mask import ConceptMask, Where, check_strength
from ....cones_ops.masks.fingerprint import Base
from ....cones_ops.models.targets import own_tokens_at
from ....cones_ops.models.weight_names import weight_and_rows
from ..parameters import PREFIX, base_identity, parameter_shapes
from .sparse_entries import MaskEntries
from .token_hooks import add_masks
from .weight_patch import add_patches

log = logging.getLogger("cones")

ELSEWHERE = (
    "the mask was found on another architecture, or on the toy world of an earlier version: load the checkpoint family "
    "it was made for, or find the concept again on this model"
)


def apply_masks(
    model: Any,
    masks: Sequence[tuple[ConceptMask, float]],
    apply_anyway: bool = False,
    where: Where | None = None,
) -> Any:
    """A clone of model with every mask applied at its strength; `where` overrides where the masks were found for.

    ConesError if a mask does not belong to this model, or cannot act there, or its strength is not from 0 to 1.
    """
    for _, strength in masks:
        check_strength(strength)
    clone = model.clone()
    active = [(acting(mask, where), float(k)) for mask, k in masks if k != 0 and mask.count > 0]
    if not active:
        return clone
    shapes = parameter_shapes(model)
    fingerprints: dict[tuple[str, ...], Base] = {}
    for mask, _ in active:
        check_fit(mask, shapes)
        check_base(model, mask, apply_anyway, fingerprints)
    at_tokens = tuple((mask, strength) for mask, strength in active if mask.where == "own tokens")
    if at_tokens:
        check_text_only([mask for mask, _ in at_tokens], shapes)
        add_masks(clone, at_tokens)
    entries: dict[str, list[MaskEntries]] = {}
    for mask, strength in active:
        for weight, mask_entries in entries_of(mask, strength, shapes) if mask.where == "everywhere" else ():
            entries.setdefault(PREFIX + weight, []).append(mask_entries)
    if entries:
        add_patches(clone, entries, {PREFIX + name: shape for name, shape in shapes.items()})
    return clone


def acting(mask: ConceptMask, where: Where | None) -> ConceptMask:
    """The mask as it is to act."""
    return mask if where in (None, mask.where) else replace(mask, where=where)


def entries_of(
    mask: ConceptMask, strength: float, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, MaskEntries]]:
    """(weight, what the mask scales in it) for each target; targets may be rows of one weight, which then repeats."""
    for name in mask.names:
        weight, rows = weight_and_rows(name)
        yield weight, MaskEntries(mask, name, rows.start * shapes[weight][1] if rows.start else 0, 1.0 - strength)


def check_text_only(masks: Sequence[ConceptMask], weights: Container[str]) -> None:
    """ConesError for masks that have no tokens to act at in the model with these weights."""
    for mask in masks:
        if others := [name for name in mask.index if own_tokens_at(name, weights) is None]:
            raise ConesError(
                f"the concept mask has neurons in {listed(others)}, which do not read the text, or read it where its "
                "tokens cannot be located, and so have no own tokens; choose where = everywhere"
            )
        if not mask.identifier:
            raise ConesError(
                "the concept mask has no identifier, so its own tokens cannot be found; choose where = everywhere"
            )


def check_fit(mask: ConceptMask, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """ConesError unless the model has every parameter of the mask, in the mask's shape."""
    missing = sorted(set(mask.shapes) - set(shapes))
    if missing:
        raise ConesError(
            f"the model has no {listed(missing)} of the concept mask's {len(mask.shapes)} parameters; {ELSEWHERE}"
        )
    wrong = [
        f"{name} (mask {tuple(mask.shapes[name])}, model {tuple(shapes[name])})"
        for name in sorted(mask.shapes)
        if tuple(mask.shapes[name]) != tuple(shapes[name])
    ]
    if wrong:
        raise ConesError(f"the model and the concept mask have different shapes: {listed(wrong)}; {ELSEWHERE}")


def check_base(model: Any, mask: ConceptMask, apply_anyway: bool, known: dict[tuple[str, ...], Base]) -> None:
    """ConesError (a warning if apply_anyway) when the mask was found on other base weights.

    known: the model's identity by searched names; masks of one model share them.
    """
    if not mask.fingerprint:
        return
    names = tuple(sorted(mask.shapes))
    if names not in known:
        known[names] = base_identity(model, names)
    remedy = "load the base model it was found on, or turn on apply_anyway"
    if note := base.check_base(mask, known[names], apply_anyway, remedy):
        log.warning("%s", note)
