"""Where a concept's own tokens are in a tokenised prompt: its identifier, and its class word directly after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..concept_mask import ConceptMask
from ..errors import ConesError


def own_positions(token_ids: Sequence[int], identifier_ids: Sequence[int], class_ids: Sequence[int] = ()) -> Tensor:
    """Boolean (L,): True at every occurrence of the identifier, and at a class word that follows it immediately.

    Both may be several tokens long. An identifier without its class word still marks its own tokens.
    """
    if not identifier_ids:
        raise ConesError("the identifier has no tokens; name the concept with at least one word")
    tokens, identifier, class_word = list(token_ids), list(identifier_ids), list(class_ids)
    own = torch.zeros(len(tokens), dtype=torch.bool)
    for start in range(len(tokens) - len(identifier) + 1):
        end = start + len(identifier)
        if tokens[start:end] != identifier:
            continue
        if class_word and tokens[end : end + len(class_word)] == class_word:
            end += len(class_word)
        own[start:end] = True
    return own


def mask_positions(mask: ConceptMask, token_ids: Sequence[int], ids_of: Callable[[str], Sequence[int]]) -> Tensor:
    """Boolean (L,): the tokens a mask owns; a mask made of several (sks+zwx) owns those of each of its identifiers."""
    identifiers = [list(ids_of(word)) for word in mask.identifier.split("+")]
    class_words = [list(ids_of(word)) for word in mask.class_word.split("+")]
    own = [own_positions(token_ids, identifier, word) for identifier in identifiers for word in class_words]
    return torch.stack(own).any(dim=0)
