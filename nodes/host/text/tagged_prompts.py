"""Prompts with tags such as `<concept:rex:0.8>`, which name files in the model folder `concept_masks`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....cones_ops.masks import tagged_prompts as library
from ....cones_ops.masks.tagged_prompts import TaggedPrompts
from ..files.folders import mask_names, path_of


def tagged_files(prompts: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Name in a tag -> (file in the list of masks, strength); ConesError for what is unknown or broken."""
    return library.tagged_files(prompts, mask_names)


def paths_of_tags(prompts: Sequence[str]) -> list[Path]:
    """The files that the tags name."""
    return [path_of(file) for file, _ in tagged_files(prompts).values()]


def read_tags(prompts: Sequence[str]) -> TaggedPrompts:
    """Load what the tags name. ConesError also for a mask without words, and for one file at two strengths."""
    return library.read_tags(prompts, mask_names, path_of)
