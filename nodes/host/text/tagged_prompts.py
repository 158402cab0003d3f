"""Prompts with tags such as `<concept:rex:0.8>`: the masks that they name, and the texts with the concepts' words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.masks.mask_file import load_mask
from ....cones_ops.models.concept_tags import file_named, prompt_words, strengths, tags_in, without_tags
from ..files.folders import mask_names, path_of


@dataclass(frozen=True)
class TaggedPrompts:
    """texts: the prompts with words where tags were; masks: (file in the list, mask, strength), each file once."""

    texts: list[str]
    masks: list[tuple[str, ConceptMask, float]]


def tagged_files(prompts: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Name in a tag -> (file in the list of masks, strength); ConesError for what is unknown or broken."""
    named = strengths(tag for prompt in prompts for tag in tags_in(prompt))
    files = mask_names() if named else []
    return {name: (file_named(name, files), strength) for name, strength in named.items()}


def paths_of_tags(prompts: Sequence[str]) -> list[Path]:
    """The files that the tags name."""
    return [path_of(file) for file, _ in tagged_files(prompts).values()]


def read_tags(prompts: Sequence[str]) -> TaggedPrompts:
    """Load what the tags name. ConesError also for a mask without words, and for one file at two strengths."""
    files = tagged_files(prompts)
    masks: dict[str, tuple[ConceptMask, float]] = {}
    for name, (file, strength) in files.items():
        if file in masks and masks[file][1] != strength:
            raise ConesError(
                f"{file} is named twice, at strengths {masks[file][1]:g} and {strength:g}; use one of them"
            )
        masks[file] = (load_mask(path_of(file)), strength)
        if not masks[file][0].identifier:
            raise ConesError(
                f"the concept mask of <concept:{name}> has no words, so no prompt can name it; connect it to Apply "
                "Concept Masks instead"
            )

    def words(name: str) -> str:
        mask, _ = masks[files[name][0]]
        return prompt_words(mask.identifier, mask.class_word)

    texts = [without_tags(prompt, words) for prompt in prompts]
    return TaggedPrompts(texts, [(file, mask, strength) for file, (mask, strength) in masks.items()])
