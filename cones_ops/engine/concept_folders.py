"""A folder of concepts: one subfolder each, with its pictures and, where they differ from the command's, its settings.

`concept.toml` may hold class, identifier, caption, where, targets, density, size, and under [settings] any of
SearchSettings. A text file beside a picture, of the same name, is that picture's caption: {} stands for the concept's
words. Whatever is unknown or of another kind is a ConesError that names the file.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from ..errors import ConesError, listed
from ..hosts.diffusers.pictures import PICTURES
from ..masks.concept_mask import Where
from ..masks.whole_files import check_name
from ..models.targets import TARGET_CHOICES, TargetChoice
from ..search.resume import digest
from ..search.settings import SearchSettings, recommended

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "concept.toml"
PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")  # of a model
VERSION = 1  # of keys; a new one makes every mask anew
WORDS = {"class": str, "identifier": str, "caption": str, "where": str, "targets": str, "density": float, "size": int}
SETTINGS = {field.name: type(field.default) for field in fields(SearchSettings)}


@dataclass(frozen=True)
class ConceptPlan:
    """What a concept's mask depends on, the model apart. `changed`: settings that differ from `recommended`."""

    class_word: str = ""
    identifier: str = "sks"
    caption: str = "a photo of a {}"
    where: Where = "own tokens"
    targets: TargetChoice = "text K+V"
    density: float | None = None
    size: int = 512
    changed: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> SearchSettings:
        """Of the search."""
        changed = dict(self.changed)
        return replace(recommended(self.where, changed.get("method", "learned")), **changed)

    @property
    def phrase(self) -> str:
        """What names the concept in a prompt."""
        return f"{self.identifier} {self.class_word}"


def concept_names(root: Path) -> list[str]:
    """The subfolders of concepts, in order; ConesError where there are none, or a name fits no mask file."""
    if not root.is_dir():
        raise ConesError(f"{root}: no such folder; give a folder with a subfolder of pictures for each concept")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and folder.name[0] != ".")
    if not names:
        raise ConesError(f"{root}: no subfolders; make one with pictures for each concept")
    for name in names:
        check_name(f"{name}.safetensors")
    if twice := {name for name in names if [other.lower() for other in names].count(name.lower()) > 1}:
        raise ConesError(f"{root}: {listed(twice)} differ only in capitals, as mask files cannot on every system")
    return names


def read_plan(folder: Path, defaults: ConceptPlan) -> ConceptPlan:
    """The plan of one concept: that of its file, where it has one, over the defaults."""
    file, plan = folder / FILE, defaults
    if file.is_file():
        try:
            plan = _with(defaults, tomllib.loads(file.read_text(encoding="utf-8")))
            plan.settings  # noqa: B018  # whether they are in range
        except (OSError, ValueError, AttributeError) as error:  # also ConesError, and settings that are no table
            raise ConesError(f"{file}: {error}") from None
    if not plan.class_word:
        raise ConesError(f'{folder}: what is it? Write class = "dog", say, into {FILE}, or give --class-word for all')
    if plan.caption.count("{}") != 1:
        raise ConesError(f"{folder}: caption {plan.caption!r}: write {{}} once, where the concept's words belong")
    return plan


def _with(defaults: ConceptPlan, entries: Mapping[str, Any]) -> ConceptPlan:
    settings = entries.get("settings", {})
    words = _checked({name: value for name, value in entries.items() if name != "settings"}, WORDS)
    changed = tuple(sorted({**dict(defaults.changed), **_checked(settings, SETTINGS)}.items()))
    if words.get("where", defaults.where) not in get_args(Where):
        raise ConesError(f"where = {words['where']!r}: expected one of {listed(get_args(Where))}")
    if words.get("targets", defaults.targets) not in TARGET_CHOICES:
        raise ConesError(f"targets = {words['targets']!r}: expected one of {listed(TARGET_CHOICES)}")
    if words.get("size", 8) % 8 or words.get("size", 8) < 8:
        raise ConesError(f"size = {words['size']}: expected a multiple of 8")
    if not 0 <= words.get("density", 0.0) <= 1:
        raise ConesError(f"density = {words['density']}: expected 0 to 1")
    words = {"class_word" if name == "class" else name: value for name, value in words.items()}
    return replace(defaults, **words, changed=changed)


def _checked(entries: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    """Entries of known names and of the kinds they must have; a whole number may stand for a float."""
    if unknown := entries.keys() - kinds.keys():
        raise ConesError(f"unknown {listed(unknown)}; there are {listed(kinds, 20)}")
    checked = {name: float(v) if kinds[name] is float and type(v) is int else v for name, v in entries.items()}
    if wrong := [name for name, value in checked.items() if type(value) is not kinds[name]]:
        raise ConesError(f"{wrong[0]} = {checked[wrong[0]]!r}: expected a {kinds[wrong[0]].__name__}")
    return checked


def captions(folder: Path, plan: ConceptPlan) -> tuple[str, ...]:
    """Captions with {} for the concept's words: one for each picture, or one for all where no picture has a file."""
    files = [picture.with_suffix(".txt") for picture in picture_files(folder)]
    if not any(file.is_file() for file in files):
        return (plan.caption,)
    return tuple(_caption(file, plan) if file.is_file() else plan.caption for file in files)


def _caption(file: Path, plan: ConceptPlan) -> str:
    text = " ".join(file.read_text(encoding="utf-8", errors="replace").split())
    if "{}" not in text:
        text = text.replace(plan.phrase, "{}", 1)
    if text.count("{}") != 1:
        raise ConesError(f'{file}: write "{plan.phrase}", or {{}}, once, where the concept\'s words belong')
    return text


def picture_files(folder: Path) -> list[Path]:
    """As `read_pictures` reads them."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != ".")


def content_key(folder: Path, plan: ConceptPlan, base: str) -> str:
    """Of everything the mask depends on: pictures, captions, settings, and the model (`base`)."""
    pictures = [hashlib.sha256(file.read_bytes()).hexdigest() for file in picture_files(folder)]
    words = (plan.identifier, plan.class_word, plan.caption, *captions(folder, plan))
    return digest(VERSION, base, words, plan.where, plan.targets, plan.density, plan.size, plan.settings, pictures)


def model_key(*sources: Path) -> str:
    """Of all files of a model that a search reads; its sources are single files, and folders saved by diffusers."""
    sha = hashlib.sha256()
    for source in sources:
        files = [source] if source.is_file() else [file for part in PARTS for file in (source / part).rglob("*")]
        for file in sorted(file for file in files if file.is_file()):
            sha.update(file.relative_to(source).as_posix().encode() + b"\0")
            with file.open("rb") as content:
                while block := content.read(2**24):
                    sha.update(block)
    return sha.hexdigest()[:32]
