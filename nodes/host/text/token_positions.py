"""Which tokens of a conditioning are whose: carried in the conditioning itself, read again when it is sampled.

Encode Prompt with Concepts leaves a `TokenPlaces` in the dict of each entry. Nodes that copy the dict (Combine, Set
Mask, Set Area, Set Timestep Range, ControlNet) keep it, and Concat adds tokens behind it, so positions stay right.
What was encoded is kept beside the positions: where the text is no longer a multiple of it (Average and the like)
the tokens cannot be told any more, and a run in which they would matter raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed

KEY = "cones_token_places"
Concept = tuple[str, str]  # identifier, class word
Conds = Mapping[str, Sequence[Mapping[str, Any]] | None]  # a run's conditionings, as CFGGuider has them

CHANGED = (
    "the text of a conditioning was changed after Encode Prompt with Concepts, so which tokens are the concept's "
    "cannot be told any more. Conditioning (Average) does that; use Conditioning (Combine), (Concat) or (Set Timestep "
    "Range), or masks that act everywhere"
)


def phrase(concept: Concept) -> str:
    """A concept's words as a user writes them."""
    return " ".join(" ".join(concept).split())


@dataclass(frozen=True, eq=False)
class TokenPlaces:
    """encoded (1, L, D): the text as it was encoded; positions: (n,) int64 below L for each concept looked for."""

    encoded: Tensor
    positions: Mapping[Concept, Tensor]
    words: str  # which words count as own

    def of(self, concept: Concept) -> Tensor:
        """Positions of a concept's own tokens, by its words in any case; none if not looked for, or not in the text."""
        alike = (own for known, own in self.positions.items() if phrase(known).casefold() == phrase(concept).casefold())
        return next(alike, torch.zeros(0, dtype=torch.int64))


def check_unchanged(places: TokenPlaces, text: Any) -> None:
    """ConesError unless `text` (1, L or more, D) still begins with a multiple of what was encoded."""
    length = places.encoded.shape[1]
    whole = isinstance(text, torch.Tensor) and text.ndim == 3 and text.shape[0] == 1
    if not whole or not multiple_of(text[:, :length], places.encoded):
        raise ConesError(CHANGED)


def multiple_of(tensor: Tensor, original: Tensor) -> bool:
    """Whether tensor = c * original for some number c (1: untouched, 0: Conditioning Zero Out)."""
    if tensor.shape != original.shape:
        return False
    tensor, original = tensor.float().cpu(), original.float().cpu()
    if torch.equal(tensor, original):
        return True
    c = (tensor * original).sum() / original.square().sum().clamp(min=1e-30)
    return bool(torch.allclose(tensor, c * original, rtol=1e-2, atol=1e-3 * float(original.abs().max())))


@dataclass(frozen=True)
class Placed:
    """One conditioning of a run: its text (L, D), how many tokens of it were appended, each concept's positions."""

    text: Tensor
    appended: int
    positions: tuple[Tensor, ...]  # one per concept


@dataclass(frozen=True)
class Rows:
    """Rows of a batch that share one conditioning: rows [start, stop), each concept's positions in their text."""

    uuid: Any
    start: int
    stop: int
    positions: tuple[Tensor, ...]


def placed(conds: Conds, concepts: Sequence[Concept]) -> dict[Any, Placed]:
    """By uuid, every conditioning of a run in which a concept has tokens."""
    found = {}
    for cond in (one for several in conds.values() for one in several or ()):
        places: TokenPlaces | None = cond.get(KEY)
        positions = tuple(places.of(concept) for concept in concepts) if places else ()
        if places and any(len(one) for one in positions):
            check_unchanged(places, cond.get("cross_attn"))
            text = cond["cross_attn"][0]
            found[cond["uuid"]] = Placed(text, len(text) - places.encoded.shape[1], positions)
    return found


def carrying(conds: Conds) -> bool:
    """Whether any conditioning was made by Encode Prompt with Concepts."""
    return any(KEY in cond for several in conds.values() for cond in several or ())


def text_and_options(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """c_crossattn and transformer_options of a call of the host's BaseModel.apply_model."""
    given = dict(zip(("x", "t", "c_concat", "c_crossattn", "control", "transformer_options"), args, strict=False))
    given |= kwargs
    return given.get("c_crossattn"), given.get("transformer_options", {})


def rows_in(uuids: Sequence[Any], text: Tensor | None, by_uuid: Mapping[Any, Placed]) -> Iterator[Rows]:
    """The rows of one batch that hold own tokens. text (B, L, D): the batch's text, uuids: one per equal part of it.

    ConesError where the model makes another text of a prompt before it reads it.
    """
    if not any(uuid in by_uuid for uuid in uuids):
        return
    if not isinstance(text, torch.Tensor) or text.ndim != 3 or text.shape[0] % len(uuids):
        seen = tuple(text.shape) if isinstance(text, torch.Tensor) else type(text).__name__
        raise ConesError(
            f"this model gets its text as {seen} for {len(uuids)} conditionings, in which own tokens cannot be told; "
            "use masks that act everywhere"
        )
    each = text.shape[0] // len(uuids)
    for part, uuid in enumerate(uuids):
        one = by_uuid.get(uuid)
        if one is None:
            continue
        begins = beginnings(text[part * each], one.text)
        positions = tuple(torch.cat([own + begin for begin in begins]) for own in one.positions)
        yield Rows(uuid, part * each, (part + 1) * each, positions)


def beginnings(text: Tensor, encoded: Tensor) -> list[int]:
    """Where a prompt's text (L, D) begins in what the model is given of it (L or more, D).

    The host repeats a shorter text until it is as long as the longest of the batch; Flux 2 puts padding before it.
    """
    length, given = len(encoded), len(text)
    if given == length:
        return [0]
    if given > length and text.shape[1] == encoded.shape[1]:
        places = dict.fromkeys([*range(0, given - length + 1, length), given - length])
        known = encoded.to(text.device, text.dtype)
        if found := [at for at in places if torch.allclose(text[at : at + length], known, rtol=1e-2, atol=1e-3)]:
            return found
    raise ConesError(
        f"this model makes another text (now {tuple(text.shape)}) of the prompt's {tuple(encoded.shape)} before it "
        "reads it, in which own tokens cannot be told; use masks that act everywhere"
    )


EVERYWHERE = ", or choose where = everywhere"  # the way out that a search has


def own_of(
    conditioning: Sequence[Any], concept: Concept, whose: str = "subject's prompt", otherwise: str = EVERYWHERE
) -> list[TokenPlaces]:
    """The places of every entry of a CONDITIONING; ConesError unless each has tokens of the concept.

    whose, otherwise: how the error calls the prompt, and what else can be done.
    """
    name = phrase(concept)
    found = []
    for text, extra in conditioning:
        places: TokenPlaces | None = extra.get(KEY)
        if places is None:
            raise ConesError(
                f"the {whose} does not tell where its words are (it comes from CLIP Text Encode); use Encode Prompt "
                f'with Concepts with concepts = "{name}"{otherwise}'
            )
        if not len(places.of(concept)):
            looked_for = listed(phrase(one) for one in places.positions) or "no concept"
            raise ConesError(
                f'the {whose} has no own tokens of "{name}"; Encode Prompt with Concepts looked for '
                f'{looked_for}. Write "{name}" in its text, and in its concepts'
            )
        check_unchanged(places, text)
        found.append(places)
    return found
