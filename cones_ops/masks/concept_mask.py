"""ConceptMask: which neurons (scalar entries of K/V weights) make one concept, and the set algebra on such masks.

`index[name]` holds sorted unique flat positions in the weight `name`, which masks from files decode on each access.
`shapes` lists every searched weight, also those without neurons, so that density = neurons / searched entries. Names
are canonical: ComfyUI's state-dict names without `diffusion_model.` and with `.weight`. Masks are plain data:
operations return new ones, nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ConesError, listed
from ..models.phrases import OWN_WORDS, OwnWords
from .fingerprint import stored_otherwise
from .rice_coding import CodedIndices

Where = Literal["everywhere", "own tokens"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class ConceptMask:
    """The neurons of one concept; see the module's contract. Raises ConesError when the parts do not fit together."""

    index: Mapping[str, Tensor]
    shapes: Shapes
    identifier: str = ""
    class_word: str = ""
    where: Where = "everywhere"
    fingerprint: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    sketch: str = ""
    own_words: OwnWords = OWN_WORDS[0]  # the rule by which its own tokens were found, and act

    def __post_init__(self) -> None:
        shapes = {name: tuple(int(side) for side in shape) for name, shape in sorted(self.shapes.items())}
        if unknown := set(self.index) - set(shapes):
            raise ConesError(f"neurons in weights without a shape: {listed(unknown)}; give the shape of every weight")
        if self.where not in get_args(Where):
            raise ConesError(f"where={self.where!r}; a concept mask acts at one of {', '.join(get_args(Where))}")
        if self.own_words not in OWN_WORDS:
            raise ConesError(f"own words {self.own_words!r}; the rules are {', '.join(OWN_WORDS)}")
        if odd := [str(k) for k, v in self.provenance.items() if not (isinstance(k, str) and isinstance(v, str))]:
            raise ConesError(f"provenance must be strings, these are not: {listed(odd)}")
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "index", _checked(self.index, shapes))
        object.__setattr__(self, "provenance", dict(self.provenance))

    @property
    def count(self) -> int:
        """How many neurons the mask has."""
        return sum(self.count_in(name) for name in self.index)

    def count_in(self, name: str) -> int:
        """How many neurons the mask has in a weight."""
        if isinstance(self.index, CodedIndices):
            return self.index.counts.get(name, 0)
        return self.index[name].numel() if name in self.index else 0

    @property
    def size(self) -> int:
        """How many entries were searched."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def density(self) -> float:
        """Share of the searched entries that are neurons of this concept."""
        return self.count / self.size if self.size else 0.0

    @property
    def names(self) -> list[str]:
        """The weights that hold at least one neuron, sorted."""
        return list(self.index)

    def __repr__(self) -> str:
        who = f"{self.identifier} {self.class_word}".strip() or "no name"
        return f"ConceptMask({who}: {self.count} of {self.size} neurons, {self.density:.2%}, {self.where})"


def _checked(index: Mapping[str, Tensor], shapes: Shapes) -> Mapping[str, Tensor]:
    """The indices that hold any neuron, in the order of their names; those from a file stay coded."""
    if isinstance(index, CodedIndices):
        if wrong := [name for name, size in index.sizes.items() if size != prod(shapes[name])]:
            raise ConesError(f"indices coded for other shapes than given: {listed(wrong)}")
        return index if all(index.counts.values()) else index.only(name for name, n in index.counts.items() if n)
    checked = {name: checked_index(name, index[name], prod(shapes[name])) for name in sorted(index)}
    return {name: positions for name, positions in checked.items() if positions.numel()}


def checked_index(name: str, index: Tensor, size: int) -> Tensor:
    """`index` as an int64 CPU tensor, or ConesError unless it is 1-D, sorted, unique and within `size` entries."""
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ConesError(f"{name}: an index is a list of whole numbers, this is {index.dtype} {tuple(index.shape)}")
    index = index.detach().to(device="cpu", dtype=torch.int64)
    if index.numel() and not bool((index[1:] > index[:-1]).all()):
        raise ConesError(f"{name}: the index is not sorted and unique; the file may be damaged")
    if index.numel() and (int(index[0]) < 0 or int(index[-1]) >= size):
        seen = f"index from {int(index[0])} to {int(index[-1])}"
        raise ConesError(f"{name}: {seen} but the weight has {size} entries; was this mask made for another model?")
    return index


def same_neurons(first: ConceptMask, second: ConceptMask) -> bool:
    """Whether both masks shut exactly the same entries (whoever they are named after)."""
    return first.names == second.names and all(torch.equal(first.index[n], second.index[n]) for n in first.index)


def empty(shapes: Shapes, **fields: Any) -> ConceptMask:
    """A mask without neurons over `shapes`; `fields` are ConceptMask's other fields."""
    return ConceptMask({}, shapes, **fields)


def why_empty(mask: ConceptMask) -> str:
    """Why a mask has no neurons, and what to do."""
    method = mask.provenance.get("method")
    if method in ("union", "intersection", "difference"):
        return f"the {method} of several masks left no neurons in it; combine other masks, or in another way"
    return "its search found no share of the weights that helps; read the report of the search"


def union(*masks: ConceptMask) -> ConceptMask:
    """Entries that are in any of the masks (the paper's concatenation of clusters)."""
    return _combined("union", masks, lambda seen, total: seen > 0)


def intersection(*masks: ConceptMask) -> ConceptMask:
    """Entries that are in all of the masks."""
    return _combined("intersection", masks, lambda seen, total: seen == total)


def difference(first: ConceptMask, *others: ConceptMask) -> ConceptMask:
    """Entries of `first` that are in none of the others; keeps the names of `first`."""
    _shared_fields((first, *others))
    index = dict(first.index)
    for other in others:
        for name in index.keys() & other.index.keys():
            index[name] = index[name][~torch.isin(index[name], other.index[name], assume_unique=True)]
    return replace(
        first, index=index, provenance=_agreed((first, *others), "difference") if others else first.provenance
    )


def restrict(mask: ConceptMask, names: Iterable[str]) -> ConceptMask:
    """The part of the mask in the weights `names`; the others no longer count as searched."""
    names = set(names)
    if unknown := names - set(mask.shapes):
        raise ConesError(f"the mask was not searched in {listed(unknown)}; it knows {listed(mask.shapes)}")
    index = {name: mask.index[name] for name in mask.index if name in names}
    return replace(mask, index=index, shapes={name: mask.shapes[name] for name in names})


def multiplier(mask: ConceptMask, name: str, strength: float = 1.0, device: torch.device | str = "cpu") -> Tensor:
    """What to multiply the weight `name` with: 1, and (1 - strength) at its neurons; fp32, of the weight's shape."""
    check_strength(strength)
    flat = torch.ones(prod(mask.shapes[name]), device=device)
    if name in mask.index:
        flat[mask.index[name].to(device)] = 1.0 - strength
    return flat.reshape(mask.shapes[name])


def multipliers(mask: ConceptMask) -> dict[tuple[int, str], Tensor]:
    """`multiplier` for every weight that holds neurons, as HostModel.multiplied takes it for concept 0."""
    return {(0, name): multiplier(mask, name) for name in mask.index}


def check_strength(strength: float, name: str = "strength") -> None:
    """ConesError, which calls it `name`, unless `strength` is a number from 0 to 1: all that a mask may act at."""
    if not 0.0 <= strength <= 1.0:  # nor nan
        raise ConesError(f"{name} {strength:g} is not from 0 to 1; 0 changes nothing, 1 shuts the neurons")


def _combined(method: str, masks: tuple[ConceptMask, ...], keep: Callable[[Tensor, int], Tensor]) -> ConceptMask:
    """One mask with the entries for which `keep(number of masks that have it, number of masks)`."""
    fields = _shared_fields(masks)
    if len(masks) == 1:
        return masks[0]
    shapes = {name: shape for mask in masks for name, shape in mask.shapes.items()}
    index = {}
    for name in shapes:
        entries = [mask.index[name] for mask in masks if name in mask.index]
        if entries:
            positions, seen = torch.unique(torch.cat(entries), return_counts=True)
            index[name] = positions[keep(seen, len(masks))]
    return ConceptMask(index, shapes, provenance=_agreed(masks, method), **fields)


def _shared_fields(masks: tuple[ConceptMask, ...]) -> dict[str, Any]:
    """identifier, class word, where and fingerprint of masks taken together; ConesError when they cannot be."""
    if not masks:
        raise ConesError("no concept mask given; connect at least one")
    shapes: dict[str, tuple[int, ...]] = {}
    wrong = {n for mask in masks for n, shape in mask.shapes.items() if shapes.setdefault(n, shape) != shape}
    if wrong:
        raise ConesError(f"the masks disagree on the shape of {listed(wrong)}; were they made for different models?")
    if len(ways := {mask.where for mask in masks}) > 1:
        raise ConesError(f"masks act at {' and '.join(sorted(ways))}; combine masks found for the same place only")
    rules: set[str] = {mask.own_words for mask in masks}
    if len(rules) > 1:
        raise ConesError(f"masks own {' and '.join(sorted(rules))}; combine masks found with the same own tokens only")
    known = [mask for mask in masks if mask.fingerprint] or [masks[0]]
    other = [mask for mask in known if mask.fingerprint != known[0].fingerprint]
    if not all(stored_otherwise(mask.sketch, known[0].sketch) for mask in other):
        seen = " and ".join(sorted({mask.fingerprint[:12] for mask in known}))
        raise ConesError(f"the masks were found on different base weights ({seen}); search them on the same model")
    return {
        "identifier": _joined(mask.identifier for mask in masks),
        "class_word": _joined(mask.class_word for mask in masks),
        "where": masks[0].where,
        "fingerprint": known[0].fingerprint,
        "sketch": known[0].sketch,
        "own_words": masks[0].own_words,
    }


def _agreed(masks: tuple[ConceptMask, ...], method: str) -> dict[str, str]:
    """The provenance of a combined mask: what all its masks say alike, and how they were combined."""
    common = set.intersection(*({*mask.provenance.items()} for mask in masks))
    return dict(sorted(common)) | {"method": method}


def _joined(words: Iterable[str]) -> str:
    return "+".join(sorted({part for word in words for part in word.split("+") if part}))
