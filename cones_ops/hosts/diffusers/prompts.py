"""Prompts that name concepts by tags, as the node Prompt with Concepts reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConesError
from ...masks.tagged_prompts import TaggedPrompts, names_below, read_tags
from .pipeline import sample


def prompt(
    pipeline: Any,
    text: str,
    masks: str | Path,
    negative: str = "",
    *,
    keep_apart: bool = True,
    seed: int = 0,
    any_base: bool = False,
    **options: Any,
) -> Any:
    """The PIL picture of a prompt with tags such as `a <concept:rex> next to a <concept:tom:0.8>`.

        prompt(pipeline, "a <concept:rex> on a beach", "concept_masks").save("rex.png")

    masks: the folder with the concepts' files; a tag may leave out case, folder and ending. keep_apart: two concepts
    or more each stay in a region of their own. options go to the pipeline. ConesError for a name that is unknown, with
    the nearest ones.
    """
    return sample_tagged(
        pipeline, read_prompt(text, negative, masks), keep_apart=keep_apart, seed=seed, any_base=any_base, **options
    )


def read_prompt(text: str, negative: str, masks: str | Path) -> TaggedPrompts:
    """The texts with the concepts' words, and the masks that their tags name, of the files below a folder."""
    folder = Path(masks)
    if not folder.is_dir():
        raise ConesError(f"{folder}: no such folder; give the folder with the concept masks")
    return read_tags([text, negative], lambda: names_below(folder), lambda name: folder / name)


def sample_tagged(pipeline: Any, prompts: TaggedPrompts, **options: Any) -> Any:
    """The picture of what `read_prompt` has read; options are those of `sample`."""
    text, negative = prompts.texts
    applied = [(mask, strength) for _, mask, strength in prompts.masks]
    return sample(pipeline, [text], applied, negative=negative, **options)[0]
