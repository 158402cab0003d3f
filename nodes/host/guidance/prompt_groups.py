"""The groups of tokens of a run's prompts: each concept's own tokens, and those of other things, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..text.token_positions import KEY, Conds, PromptTokens, TokenPositions, check_read, check_unchanged, phrase

NEGATIVE = "negative"


def encoded_prompts(conds: Conds) -> list[Mapping[str, Any]]:
    """The run's conditionings, negative ones aside, that Encode Prompt with Concepts made."""
    return [cond for name, entries in conds.items() if name != NEGATIVE for cond in entries or () if KEY in cond]


def group_names(prompts: Sequence[Mapping[str, Any]], words: Sequence[str], only_words: bool) -> tuple[str, ...]:
    """The concepts that prompts name, by their words, then `words`; each once. only_words: the latter alone."""
    concepts = () if only_words else (named for cond in prompts for named in _concepts(cond[KEY]))
    names: dict[str, str] = {}
    for name in (*concepts, *words):
        names.setdefault(name.casefold(), name)
    return tuple(names.values())


def groups_by_uuid(prompts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[Any, PromptTokens]:
    """By uuid, where the tokens of each group are, for conditionings in which a group has any."""
    by_uuid = {}
    for cond in prompts:
        tokens: TokenPositions = cond[KEY]
        positions = tuple(positions_of_groups(tokens, names))
        if any(len(group) for group in positions):
            check_read(cond)
            check_unchanged(tokens, cond.get("cross_attn"))
            text = cond["cross_attn"][0]
            by_uuid[cond["uuid"]] = PromptTokens(text, len(text) - tokens.encoded.shape[1], positions)
    return by_uuid


def positions_of_groups(tokens: TokenPositions, names: Sequence[str]) -> list[Tensor]:
    """(n,) positions of each group. Tokens of a concept are no other word's: "cat" is not that of "sks cat"."""
    concepts = {name.casefold(): positions for name, positions in _concepts(tokens).items()}
    owned = torch.cat([*concepts.values(), torch.zeros(0, dtype=torch.int64)])
    groups = []
    for name in names:
        positions = concepts.get(name.casefold())
        if positions is None:
            positions = tokens.find(name) if tokens.find else owned[:0]
            positions = positions[~torch.isin(positions, owned)]
        groups.append(positions)
    return groups


def _concepts(tokens: TokenPositions) -> dict[str, Tensor]:
    """The concepts that a prompt names, by their words."""
    return {phrase(concept): positions for concept, positions in tokens.positions.items() if len(positions)}
