"""One concept mask in parts, to see what each part does: the same mask with some of its neurons, by where they lie.

Every part keeps the words, the place it acts at, the searched weights and the fingerprint of the whole, so it can be
applied like it. Mask files hold no scores, so there are no groups by score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from ..errors import ConesError
from ..models.weight_names import SearchedWeight, layers, searched_weights, words_for
from .concept_mask import ConceptMask

GroupBy = Literal["third of the model", "block", "K and V", "block, K and V"]
Left = Literal["the group alone", "all but the group"]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
LEFT: tuple[Left, ...] = get_args(Left)
THIRDS = ("first third", "middle third", "last third")


def split(mask: ConceptMask, by: GroupBy = "block", left: Left = LEFT[0], whole: bool = True) -> dict[str, ConceptMask]:
    """Label -> the mask with one group of its neurons (or all but one), by depth; first the whole mask if `whole`.

    Groups without neurons, and remainders without any, are left out. ConesError for an empty mask or an unknown choice.
    """
    if by not in GROUPS or left not in LEFT:
        raise ConesError(f"groups {by!r}, {left!r}: choose one of {', '.join(GROUPS)}, and one of {', '.join(LEFT)}")
    if mask.count == 0:
        raise ConesError("the concept mask is empty, so it has no groups; see the report of its search")
    parts = {"all": mask} if whole else {}
    for group, names in _groups(mask, by).items():
        inside = left == LEFT[0]
        index = {name: i for name, i in mask.index.items() if (name in names) == inside}
        if index and names & set(mask.index):
            parts[group if inside else f"all but {group}"] = replace(mask, index=index)
    return {f"{label}: {part.count:,} ({part.count / mask.count:.0%})": part for label, part in parts.items()}


def _groups(mask: ConceptMask, by: GroupBy) -> dict[str, set[str]]:
    weights = searched_weights(mask.shapes)
    depth = {layer: k for k, layer in enumerate(layers(weights))}
    key: dict[GroupBy, Callable[[SearchedWeight], str]] = {
        "third of the model": lambda weight: THIRDS[3 * depth[weight.layer] // len(depth)],
        "block": lambda weight: words_for(weight.block),
        "K and V": lambda weight: weight.row,
        "block, K and V": lambda weight: f"{words_for(weight.block)}, {weight.row}",
    }
    groups: dict[str, set[str]] = {}
    for weight in weights:
        groups.setdefault(key[by](weight), set()).add(weight.name)
    return groups
