"""Prompts encoded as CLIP Text Encode does it, with the positions of concepts' own tokens left in the conditioning.

A CLIP may hold several text encoders (SDXL, SD3), each with its own tokens, and may drop some of them (a template)
before the model sees them. `offsets` says where the tokens of each lie in the encoded text, and refuses what it does
not know.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.models.own_tokens import own_positions, span_positions
from ....cones_ops.models.phrases import (
    OWN_WORDS,
    PHRASE,
    OwnWords,
    PromptText,
    Span,
    other_things,
    own_spans,
    own_text,
    read_brackets,
)
from .token_positions import KEY, ConceptWords, TokenPositions

Tokens = Mapping[str, Sequence[Sequence[Any]]]  # the host's: per text encoder, chunks of (token, weight, word id)
BOTH_WAYS = ("t5", "bert", "hydit", "jina")  # in names of encoders whose words see those behind them too
CLIPS = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}  # CLIP text encoders, and what the host's models call them


@dataclass(frozen=True)
class EncodedPrompt:
    """A CONDITIONING with token positions in it, and for each concept its own words and their positions."""

    text: PromptText
    conditioning: list[Any]
    tokens: TokenPositions
    length: int

    @property
    def positions(self) -> Mapping[ConceptWords, Tensor]:
        """(n,) positions of each concept's own tokens."""
        return self.tokens.positions


def encode_prompt(
    clip: Any,
    text: str,
    concepts: Sequence[ConceptWords],
    words: OwnWords = OWN_WORDS[0],
    rules: Mapping[ConceptWords, OwnWords] | None = None,
) -> EncodedPrompt:
    """Encode `text`; its tensors are those of CLIP Text Encode, bit for bit.

    words: which words are own; rules: of single concepts, where it differs. Where a concept owns its phrase, brackets
    around concepts are read and do not reach the text encoder.
    """
    if clip is None:
        raise ConesError("there is no CLIP: the checkpoint has no text encoder; load one and connect it")
    rules = {concept: (rules or {}).get(concept, words) for concept in concepts}
    phrases = PHRASE in rules.values()
    prompt = read_brackets(text, [name for name, _ in concepts]) if phrases else PromptText(text)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt.text))
    length = conditioning[0][0].shape[1] if conditioning and conditioning[0][0].ndim == 3 else 0
    encoded = conditioning[0][0] if conditioning else torch.zeros(0)
    tokens = tokens_of(clip, prompt, rules, length, encoded) if concepts else TokenPositions(encoded, {}, text=text)
    find = partial(positions_of_words, clip, prompt.text, length)
    entries = [[hidden, {**extra, KEY: replace(tokens, encoded=hidden, find=find)}] for hidden, extra in conditioning]
    return EncodedPrompt(prompt, entries, tokens, length)


def tokens_of(
    clip: Any, prompt: PromptText, rules: Mapping[ConceptWords, OwnWords], length: int, encoded: Tensor
) -> TokenPositions:
    """The positions of each concept's own tokens, and of other things, among the `length` that the model gets."""

    @lru_cache
    def tokens(text: str) -> Tokens:
        result = clip.tokenize(text, return_word_ids=True)
        encoders: Tokens = {name: chunks for name, chunks in result.items() if is_tokens(chunks)}
        model = clip.cond_stage_model  # SD3 may lack one of its encoders; its tokens are made all the same
        return {e: chunks for e, chunks in encoders.items() if getattr(model, CLIPS.get(e, e), chunks) is not None}

    spans = {concept: own_spans(prompt, *concept, rule) for concept, rule in rules.items()}
    things = things_in(prompt, spans)
    positions: dict[ConceptWords, set[int]] = {concept: set() for concept in rules}
    others: dict[str, set[int]] = {name: set() for name in things}
    for encoder, offset in offsets(tokens(prompt.text), tokens("and"), length).items():

        def flat(text: str, encoder: str = encoder) -> list[Hashable | None]:
            return flat_tokens(tokens(text)[encoder])

        def add(places: set[int], own: Tensor, offset: int = offset) -> None:
            places |= {place for place in (own.nonzero().flatten() + offset).tolist() if 0 <= place < length}

        for concept, places in positions.items():
            add(places, own_positions(flat, prompt, *concept, rule_in(encoder, rules[concept])))
        for name, places in others.items():
            add(places, span_positions(flat, prompt, things[name]))
    return TokenPositions(
        encoded,
        {concept: torch.tensor(sorted(places), dtype=torch.int64) for concept, places in positions.items()},
        rules,
        {concept: own_text(prompt, own) for concept, own in spans.items()},
        {name: torch.tensor(sorted(places), dtype=torch.int64) for name, places in others.items()},
        prompt.text,
    )


def rule_in(encoder: str, rule: OwnWords) -> OwnWords:
    """The rule in one text encoder: phrases are of encoders whose words see only what is before them."""
    return OWN_WORDS[0] if rule == PHRASE and any(part in encoder for part in BOTH_WAYS) else rule


def things_in(prompt: PromptText, own: Mapping[ConceptWords, Sequence[Span]]) -> dict[str, list[Span]]:
    """The spans of the other things that the prompt names, by their words."""
    things: dict[str, list[Span]] = {}
    for start, end in other_things(prompt, [span for spans in own.values() for span in spans]):
        things.setdefault(prompt.text[start:end].lower(), []).append((start, end))
    return things


def positions_of_words(clip: Any, text: str, length: int, words: str) -> Tensor:
    """(n,) positions of the tokens of any words of the text, every time that they occur."""
    concept = (words, "")
    return tokens_of(clip, PromptText(text), {concept: OWN_WORDS[0]}, length, torch.zeros(0)).positions[concept]


def is_tokens(value: Any) -> bool:
    """Whether an entry of a tokenizer's result holds tokens: some tokenizers leave settings beside them."""
    return isinstance(value, list) and bool(value) and all(isinstance(chunk, list | tuple) for chunk in value)


def flat_tokens(chunks: Sequence[Sequence[Any]]) -> list[Hashable | None]:
    """All chunks of one text encoder in a row: None for start, end and padding, one word for all embeddings."""
    flat: list[Hashable | None] = []
    for token, _, *word_id in (entry for chunk in chunks for entry in chunk):
        special = bool(word_id) and word_id[0] == 0
        flat.append(None if special else token if isinstance(token, int) else "embedding")
    return flat


def offsets(tokens: Tokens, others: Tokens, length: int) -> dict[str, int]:
    """Text encoder -> where its tokens begin in an encoded text of `length`; those the model gets pooled are left out.

    others: the tokens of another text, to tell a template (which both begin with) from the user's words.
    """
    sizes = {encoder: sum(len(chunk) for chunk in chunks) for encoder, chunks in tokens.items()}
    clips = {encoder: size for encoder, size in sizes.items() if encoder in CLIPS}
    large = {encoder: size for encoder, size in sizes.items() if encoder not in clips}
    side_by_side = min(clips.values(), default=0)  # CLIP-L and CLIP-G share their positions
    if len(large) <= 1 and length:
        size = sum(large.values())
        if length == side_by_side:  # SD 1.x, SD 2.x, SDXL; SD3 without its third encoder
            return dict.fromkeys(clips, 0)
        if length == side_by_side + size:  # SD3: CLIP first, then T5; or one encoder alone
            return {**dict.fromkeys(clips, 0), **dict.fromkeys(large, side_by_side)}
        if length == size:  # Flux: T5 only, CLIP is pooled
            return dict.fromkeys(large, 0)
        for encoder in large:  # a language model whose template is cut off in front
            if 0 < size - length <= template_length(tokens[encoder], others[encoder]):
                return {encoder: length - size}
    raise ConesError(
        f"this text encoder gives {length} tokens for {listed(f'{size} of {name}' for name, size in sizes.items())}, "
        "so the tokens of a word cannot be located; use CLIP Text Encode and masks that act everywhere"
    )


def template_length(chunks: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> int:
    """How many tokens two texts begin with alike."""
    first, second = flat_tokens(chunks), flat_tokens(others)
    pairs = list(zip(first, second, strict=False))
    return next((i for i, (token, other) in enumerate(pairs) if token != other), len(pairs))
