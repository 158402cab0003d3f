"""Which tokens of a conditioning name which concept: carried in the conditioning, read again when it is sampled.

Encode Prompt with Concepts leaves `TokenPositions` in the dict of each entry. Nodes that copy the dict (Combine, Set
Mask, Set Area, Set Timestep Range, ControlNet) keep it, and Concat adds tokens behind it, so positions stay right.
The encoded text is kept beside the positions. Where the text is a little off a multiple of it (nodes that add noise),
the positions hold; where own tokens are mixed with others (Average), they mean nothing, and a run that needs them
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.models.phrases import OWN_WORDS, OwnWords

KEY = "cones_token_places"
ConceptWords = tuple[str, str]  # identifier, class word
Conds = Mapping[str, Sequence[Mapping[str, Any]] | None]  # a run's conditionings, as CFGGuider has them

CHANGED = (
    "the text of a conditioning was changed after Encode Prompt with Concepts, so the concept's tokens are no longer "
    "known. Conditioning (Average) does that; use Conditioning (Combine), (Concat) or (Set Timestep Range) instead, or "
    "masks that act everywhere"
)
NOISY = (
    "Remove noise from the text if a concept is weak: another node has changed the text of a conditioning a little "
    "after Encode Prompt with Concepts, and the concept's tokens are taken to be where they were"
)
NEAR = 0.25  # how far an own token may be off, as a share of its length; mixing two texts by halves is farther


def phrase(concept: ConceptWords) -> str:
    """A concept's words as a user writes them."""
    return " ".join(" ".join(concept).split())


@dataclass(frozen=True, eq=False)
class TokenPositions:
    """encoded (1, L, D): the text as it was encoded; positions: (n,) int64 below L for each concept looked for."""

    encoded: Tensor
    positions: Mapping[ConceptWords, Tensor]
    rules: Mapping[ConceptWords, OwnWords] = field(default_factory=dict)  # which words are each concept's own
    own_words: Mapping[ConceptWords, str] = field(default_factory=dict)  # those words
    others: Mapping[str, Tensor] = field(default_factory=dict)  # positions of the other things that the text names
    text: str = ""  # the prompt as it was written, without brackets around concepts
    find: Callable[[str], Tensor] | None = None  # (n,) positions of any other words of the text

    def of(self, concept: ConceptWords) -> Tensor:
        """Positions of a concept's own tokens, by its words in any case; none if not looked for, or not in the text."""
        return named(self.positions, concept, torch.zeros(0, dtype=torch.int64))


Value = TypeVar("Value")


def named(values: Mapping[ConceptWords, Value], concept: ConceptWords, otherwise: Value) -> Value:
    """The value of a concept, by its words in any case."""
    wanted = phrase(concept).casefold()
    return next((value for words, value in values.items() if phrase(words).casefold() == wanted), otherwise)


def rule_of(tokens: TokenPositions, concept: ConceptWords) -> OwnWords:
    """Which words of the text are the concept's own."""
    return named(tokens.rules, concept, OWN_WORDS[0])


def check_read(extra: Mapping[str, Any]) -> None:
    """ConesError for a conditioning of which the model makes another text, from tokens of another encoder (Anima)."""
    if extra.get("t5xxl_ids") is not None:
        raise ConesError(
            "this model makes another text of the prompt, from tokens of its own, before its layers read it, so own "
            "tokens cannot be found there; choose where = everywhere"
        )


def check_unchanged(tokens: TokenPositions, text: Any) -> bool:
    """Whether `text` (1, L or more, D) still begins with a multiple of what was encoded, up to rounding.

    ConesError where even its own tokens are no longer near to that.
    """
    length = tokens.encoded.shape[1]
    whole = isinstance(text, torch.Tensor) and text.ndim == 3 and text.shape[0] == 1
    if not whole or text[:, :length].shape != tokens.encoded.shape:
        raise ConesError(CHANGED)
    now, before = text[0, :length].float().cpu(), tokens.encoded[0].float().cpu()
    if torch.equal(now, before):
        return True
    c = (now * before).sum() / before.square().sum().clamp(min=1e-30)  # 1: untouched, 0: Conditioning Zero Out
    if torch.allclose(now, c * before, rtol=1e-2, atol=1e-3 * float(before.abs().max())):
        return True
    own = torch.cat(list(tokens.positions.values()))
    if not ((now - c * before)[own].norm(dim=1) <= NEAR * (c * before)[own].norm(dim=1)).all():
        raise ConesError(CHANGED)
    return False


@dataclass(frozen=True)
class PromptTokens:
    """One conditioning of a run: its text (L, D), how many tokens of it were appended, each concept's positions.

    noisy: whether another node has changed the text a little.
    """

    text: Tensor
    appended: int
    positions: tuple[Tensor, ...]  # one per concept
    noisy: bool = False


@dataclass(frozen=True)
class PromptRows:
    """Rows of a batch that share one conditioning: rows [start, stop), each concept's positions in their text."""

    uuid: Any
    start: int
    stop: int
    positions: tuple[Tensor, ...]


def positions_by_prompt(conds: Conds, concepts: Sequence[ConceptWords]) -> dict[Any, PromptTokens]:
    """By uuid, every conditioning of a run in which a concept has tokens."""
    prompts = {}
    for cond in (cond for conditioning in conds.values() for cond in conditioning or ()):
        tokens: TokenPositions | None = cond.get(KEY)
        positions = tuple(tokens.of(concept) for concept in concepts) if tokens else ()
        if tokens and any(len(own) for own in positions):
            check_read(cond)
            noisy = not check_unchanged(tokens, cond.get("cross_attn"))
            text = cond["cross_attn"][0]
            prompts[cond["uuid"]] = PromptTokens(text, len(text) - tokens.encoded.shape[1], positions, noisy)
    return prompts


def rules_in(conds: Conds, concept: ConceptWords) -> set[OwnWords]:
    """By which rules the prompts that hold a concept's words mark them."""
    entries = [cond[KEY] for conditioning in conds.values() for cond in conditioning or () if KEY in cond]
    return {rule_of(tokens, concept) for tokens in entries if len(tokens.of(concept))}


def any_encoded(conds: Conds) -> bool:
    """Whether any conditioning was made by Encode Prompt with Concepts."""
    return any(KEY in cond for conditioning in conds.values() for cond in conditioning or ())


def text_and_options(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """c_crossattn and transformer_options of a call of the host's BaseModel.apply_model."""
    names = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
    arguments = dict(zip(names, args, strict=False)) | kwargs
    return arguments.get("c_crossattn"), arguments.get("transformer_options", {})


def rows_in(uuids: Sequence[Any], text: Tensor | None, by_uuid: Mapping[Any, PromptTokens]) -> Iterator[PromptRows]:
    """The rows of one batch that hold own tokens. text (B, L, D): the batch's text, uuids: one per equal part of it,
    or a tuple of them.

    ConesError where the model makes another text of a prompt before it reads it.
    """
    uuids = [each for uuid in uuids for each in (uuid if isinstance(uuid, tuple) else (uuid,))]
    if not any(uuid in by_uuid for uuid in uuids):
        return
    if not isinstance(text, torch.Tensor) or text.ndim != 3 or text.shape[0] % len(uuids):
        shape = tuple(text.shape) if isinstance(text, torch.Tensor) else type(text).__name__
        raise ConesError(
            f"this model gets its text as {shape} for {len(uuids)} conditionings, where own tokens cannot be located; "
            "use masks that act everywhere"
        )
    size = text.shape[0] // len(uuids)
    for part, uuid in enumerate(uuids):
        if prompt := by_uuid.get(uuid):
            starts = prompt_starts(text[part * size], prompt.text)
            positions = tuple(torch.cat([own + start for start in starts]) for own in prompt.positions)
            yield PromptRows(uuid, part * size, (part + 1) * size, positions)


def prompt_starts(text: Tensor, encoded: Tensor) -> list[int]:
    """Where a prompt's text (L, D) starts in what the model gets of it (L or more, D).

    The host repeats a shorter text until it is as long as the longest of the batch; Flux 2 puts padding before it.
    """
    length, longer = len(encoded), len(text)
    if longer == length:
        return [0]
    if longer > length and text.shape[1] == encoded.shape[1]:
        candidates = dict.fromkeys([*range(0, longer - length + 1, length), longer - length])
        known = encoded.to(text.device, text.dtype)
        alike = [i for i in candidates if torch.allclose(text[i : i + length], known, rtol=1e-2, atol=1e-3)]
        if alike:
            return alike
    raise ConesError(
        f"this model turns the prompt's text {tuple(encoded.shape)} into another one {tuple(text.shape)} before it "
        "reads it, so own tokens cannot be located; use masks that act everywhere"
    )


EVERYWHERE = ", or choose where = everywhere"  # the other solution in a search


def token_positions_of(
    conditioning: Sequence[Any],
    concept: ConceptWords,
    prompt: str = "prompt of the subject pictures",
    otherwise: str = EVERYWHERE,
) -> list[TokenPositions]:
    """The token positions of every entry of a CONDITIONING; ConesError unless each has tokens of the concept.

    prompt, otherwise: what the error calls the prompt, and what else can be done.
    """
    name = phrase(concept)
    entries = []
    for encoded, extra in conditioning:
        tokens: TokenPositions | None = extra.get(KEY)
        if tokens is None:
            raise ConesError(
                f"the {prompt} does not record where its words are (it comes from CLIP Text Encode); use Encode Prompt "
                f'with Concepts with concepts = "{name}"{otherwise}'
            )
        if not len(tokens.of(concept)):
            known = listed(phrase(words) for words in tokens.positions) or "no concept"
            text = f" ({shorten(tokens.text, 100)!r})" if tokens.text else ""
            raise ConesError(
                f'the {prompt}{text} has no own tokens of "{name}"; Encode Prompt with Concepts looked for {known}. '
                f'Write "{name}" in its text and in its concepts'
            )
        check_read(extra)
        check_unchanged(tokens, encoded)
        entries.append(tokens)
    return entries
