"""Prompts encoded as CLIP Text Encode does it, with the positions of concepts' own tokens left in the conditioning.

A CLIP may hold several text encoders (SDXL, SD3), each with its own tokens, and may drop some of them (a template)
before the model sees them. `offsets` says where the tokens of each lie in the encoded text, and refuses what it does
not know.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.models.own_tokens import OWN_WORDS, OwnWords, own_positions
from .token_positions import KEY, ConceptWords, TokenPositions

Tokens = Mapping[str, Sequence[Sequence[Any]]]  # the host's: per text encoder, chunks of (token, weight, word id)
CLIPS = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}  # CLIP text encoders, and what the host's models call them


@dataclass(frozen=True)
class EncodedPrompt:
    """A CONDITIONING with token positions in it, and for each concept the positions of its own tokens."""

    text: str
    conditioning: list[Any]
    positions: Mapping[ConceptWords, Tensor]
    length: int


def encode_prompt(
    clip: Any, text: str, concepts: Sequence[ConceptWords], words: OwnWords = OWN_WORDS[0]
) -> EncodedPrompt:
    """Encode `text`; its tensors are those of CLIP Text Encode, bit for bit."""
    if clip is None:
        raise ConesError("there is no CLIP: the checkpoint has no text encoder; load one and connect it")
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    length = conditioning[0][0].shape[1] if conditioning and conditioning[0][0].ndim == 3 else 0
    positions = positions_of(clip, text, concepts, length, words) if concepts else {}
    entries = [
        [encoded, {**extra, KEY: TokenPositions(encoded, positions, words, text=text)}]
        for encoded, extra in conditioning
    ]
    return EncodedPrompt(text, entries, positions, length)


def positions_of(
    clip: Any, text: str, concepts: Sequence[ConceptWords], length: int, words: OwnWords
) -> dict[ConceptWords, Tensor]:
    """(n,) positions of each concept's own tokens among the `length` tokens that the model gets."""

    @lru_cache
    def tokens(prompt: str) -> Tokens:
        result = clip.tokenize(prompt, return_word_ids=True)
        encoders: Tokens = {name: chunks for name, chunks in result.items() if is_tokens(chunks)}
        model = clip.cond_stage_model  # SD3 may lack one of its encoders; its tokens are made all the same
        return {e: chunks for e, chunks in encoders.items() if getattr(model, CLIPS.get(e, e), chunks) is not None}

    positions: dict[ConceptWords, set[int]] = {concept: set() for concept in concepts}
    for encoder, offset in offsets(tokens(text), tokens("and"), length).items():

        def flat(prompt: str, encoder: str = encoder) -> list[Hashable | None]:
            return flat_tokens(tokens(prompt)[encoder])

        for concept, own in positions.items():
            places = own_positions(flat, text, *concept, words).nonzero().flatten() + offset
            own |= {place for place in places.tolist() if 0 <= place < length}
    return {concept: torch.tensor(sorted(own), dtype=torch.int64) for concept, own in positions.items()}


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
