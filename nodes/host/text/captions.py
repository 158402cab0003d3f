"""The prompts of a search, checked before the model is loaded: one for all pictures, or a caption for each.

A search uses the whole picture at every noise level, so a prompt that acts in a part of either is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.models.phrases import own_spans
from ..notices import warn
from .token_positions import KEY, ConceptWords, TokenPositions, phrase


def captioned(label: str, prompts: Any, pictures: int, concepts: Sequence[ConceptWords]) -> dict[str, Any]:
    """CONDITIONINGs by label: one for all pictures, or one per picture. concepts: whose words the prompts hold."""
    prompts = list(prompts)
    check_prompts(label, prompts, pictures)
    if len(prompts) <= 1:
        check_lines(label, prompts, pictures, concepts)
        return {label: prompts}
    if len(prompts) != pictures:
        raise ConesError(
            f"{len(prompts)} prompts for {pictures} pictures ({label}); connect one prompt for all, or one per picture "
            "(prompt_per_line in Encode Prompt with Concepts, or Conditioning (Combine))"
        )
    return {f"{label} {k + 1}": [entry] for k, entry in enumerate(prompts)}


def prompt_name(label: str, number: int, count: int) -> str:
    """What messages call a prompt: the only one of some pictures, or one of several captions."""
    return f"prompt of the {label} pictures" if count == 1 else f"caption {number} of the {label} pictures"


def check_prompts(label: str, conditioning: Any, pictures: int) -> None:
    """ConesError for a batch of prompts in one tensor, a text of zeros, and a prompt that acts in a part only."""
    for text, extra in conditioning:
        if len(text) != 1:
            raise ConesError(
                f"the {label} conditioning is a batch of {len(text)} prompts for "
                f"{pictures} pictures; connect one prompt that fits all pictures"
            )
        if isinstance(text, Tensor) and not bool(text.any()):
            raise ConesError(
                f"the text of the {label} conditioning is all zero (Conditioning Zero Out does that), so no weight "
                "that reads it can be searched; connect the encoded prompt itself"
            )
        check_unlimited(label, extra)


def check_unlimited(label: str, extra: Mapping[str, Any]) -> None:
    """ConesError for a prompt that acts in a part of the sampling or of the picture."""
    timed = extra.get("start_percent", 0.0) > 0.0 or extra.get("end_percent", 1.0) < 1.0
    limits = {
        "Conditioning (Set Timestep Range)": timed,
        "Conditioning (Set Area)": extra.get("area") is not None,
        "Conditioning (Set Mask)": extra.get("mask") is not None,
    }
    if nodes := [node for node, limited in limits.items() if limited]:
        raise ConesError(
            f"the {label} conditioning acts in a part only ({' and '.join(nodes)}), but a search uses whole pictures "
            "at every noise level; connect the prompt without that node (Set Latent Noise Mask marks the part of a "
            "picture that counts)"
        )


def check_lines(label: str, prompts: Sequence[Any], pictures: int, concepts: Sequence[ConceptWords]) -> None:
    """ConesError where one prompt has a line about the concepts for each picture; a warning for other numbers."""
    words = [concept for concept in concepts if concept[0].strip()]
    for _, extra in prompts:
        tokens: TokenPositions | None = extra.get(KEY)
        lines = tokens.text.splitlines() if tokens else []
        count = sum(any(own_spans(line, *concept) for concept in words) for line in lines)
        if count < 2:
            continue
        names = " or ".join(f'"{phrase(concept)}"' for concept in words)
        what = f"the prompt of the {label} pictures has {count} lines that name {names} and is encoded as one prompt"
        if count == pictures:
            raise ConesError(
                f"{what}, for {pictures} pictures; turn on prompt_per_line in Encode Prompt with Concepts for one "
                "caption per picture, or write one line that fits all pictures"
            )
        warn(f"Turn on prompt_per_line in Encode Prompt with Concepts: {what} for {pictures} pictures")
