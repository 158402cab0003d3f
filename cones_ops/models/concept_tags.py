"""Concepts named in a prompt by tags, as people know from LoRA prompts: `<concept:rex>`, `<concept:people/tom:0.8>`.

A tag names a mask file and, if it has a second colon, a strength from 0 to 1. In the text that is drawn, the words of
the concept stand in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import ConesError, listed

_TAG = re.compile(r"<\s*concept\s*:([^<>]*)>", re.IGNORECASE)
_OPENED = re.compile(r"<\s*concept\s*:[^<>]*(?:<|$)", re.IGNORECASE)
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Tag:
    """A mask's name as it was typed, and how far its neurons are shut."""

    name: str
    strength: float


def tags_in(text: str) -> list[Tag]:
    """The tags of a prompt in order. ConesError for a tag without an end or a name, and for a strength that is none."""
    if opened := _OPENED.search(text):
        raise ConesError(f"{opened[0].rstrip('<').strip()!r} has no end; write > after the name of the concept")
    return [_tag(match) for match in _TAG.finditer(text)]


def without_tags(text: str, words: Callable[[str], str]) -> str:
    """The prompt with the words of each concept, by the name in its tag, where the tag was."""
    return _TAG.sub(lambda match: words(_tag(match).name), text)


def strengths(tags: Iterable[Tag]) -> dict[str, float]:
    """Strength by name, each name once. ConesError where one name has two strengths."""
    by_name: dict[str, float] = {}
    for tag in tags:
        if by_name.setdefault(tag.name, tag.strength) != tag.strength:
            raise ConesError(
                f"<concept:{tag.name}> has the strengths {by_name[tag.name]:g} and {tag.strength:g}; give it the same "
                "one everywhere"
            )
    return by_name


def prompt_words(identifier: str, class_word: str) -> str:
    """What stands in a prompt for a concept: "sks dog"; for a union of several, "sks dog and zwx cat"."""
    names, classes = identifier.split("+"), class_word.split("+")
    if len(classes) != len(names):
        classes = [class_word] * len(names)
    return " and ".join(" ".join(f"{name} {kind}".split()) for name, kind in zip(names, classes, strict=True))


def file_named(name: str, files: Iterable[str]) -> str:
    """The file that a tag names, of paths such as `people/rex.safetensors`: case, folder and ending may be left out.

    ConesError, with the nearest names, where there is none, and where several files in different folders fit.
    """
    by_path = {_plain(file): file for file in files}
    if (wanted := _plain(name)) in by_path:
        return by_path[wanted]
    matches = [file for path, file in by_path.items() if path.rsplit("/", 1)[-1] == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConesError(f'"{name}" may be {listed(matches)}; write the folder too, as in <concept:folder/{name}>')
    short = {path.rsplit("/", 1)[-1]: path for path in by_path}
    near = get_close_matches(wanted, [*by_path, *short], n=3, cutoff=0.4)
    known = [by_path[short.get(path, path)].removesuffix(SUFFIX) for path in near] or [
        file.removesuffix(SUFFIX) for file in by_path.values()
    ]
    advice = f"the nearest names are: {listed(dict.fromkeys(known))}" if known else "there is no concept mask yet"
    raise ConesError(f'no concept "{name}": {advice}')


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").casefold().removesuffix(SUFFIX)


def _tag(match: re.Match[str]) -> Tag:
    name, colon, strength = match[1].partition(":")
    if not name.strip():
        raise ConesError(f"{match[0]!r} names no concept; write the name of a concept mask, as in <concept:rex>")
    try:
        value = float(strength) if colon else 1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConesError(f"the strength in {match[0]!r} is {strength.strip()!r}; write a number from 0 to 1")
    return Tag(" ".join(name.split()), value)
