"""Prompts with tags such as `<concept:rex:0.8>`: the masks that they name, and the texts with the concepts' words.

A host says which files there are (`names`, such as `people/rex.safetensors`) and where each lies (`path_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConesError
from ..models.concept_tags import SUFFIX, file_named, prompt_words, strengths, tags_in, without_tags
from .concept_mask import ConceptMask
from .mask_file import load_mask

Names = Callable[[], Iterable[str]]


@dataclass(frozen=True)
class TaggedPrompts:
    """texts: the prompts with words where tags were; masks: (file in the list, mask, strength), each file once."""

    texts: list[str]
    masks: list[tuple[str, ConceptMask, float]]


def tagged_files(prompts: Sequence[str], names: Names) -> dict[str, tuple[str, float]]:
    """Name in a tag -> (file, strength); ConesError for what is unknown or broken. Without tags no file is listed."""
    tags = strengths(tag for prompt in prompts for tag in tags_in(prompt))
    files = list(names()) if tags else []
    return {name: (file_named(name, files), strength) for name, strength in tags.items()}


def read_tags(prompts: Sequence[str], names: Names, path_of: Callable[[str], Path]) -> TaggedPrompts:
    """Load what the tags name. ConesError also for a mask without words, and for one file at two strengths."""
    files = tagged_files(prompts, names)
    masks: dict[str, tuple[ConceptMask, float]] = {}
    for name, (file, strength) in files.items():
        if file in masks and masks[file][1] != strength:
            raise ConesError(
                f"{file} is named twice, at strengths {masks[file][1]:g} and {strength:g}; use one of them"
            )
        masks[file] = (load_mask(path_of(file)), strength)
        if not masks[file][0].identifier:
            raise ConesError(
                f"the concept mask of <concept:{name}> has no words, so no prompt can name it; apply it without a tag"
            )

    def words(name: str) -> str:
        mask, _ = masks[files[name][0]]
        return prompt_words(mask.identifier, mask.class_word)

    texts = [without_tags(prompt, words) for prompt in prompts]
    return TaggedPrompts(texts, [(file, mask, strength) for file, (mask, strength) in masks.items()])


def names_below(folder: Path) -> list[str]:
    """The mask files below a folder, as paths from there with `/`, hidden ones aside."""
    files = (file.relative_to(folder) for file in folder.rglob(f"*{SUFFIX}"))
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
