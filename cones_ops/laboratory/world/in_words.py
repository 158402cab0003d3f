"""How often pictures are what their captions say, by the judge; and how good the judge itself is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ...toy_world.bundle import ToyPipeline
from ...toy_world.caption_forms import FORMS
from ...toy_world.captions import Caption, describe
from ...toy_world.drawing.scene import draw_all
from ...toy_world.scenes import look_alike, random_scene
from ...toy_world.subjects import SUBJECTS, in_training
from ...toy_world.world import NAMED, Character, Scene
from ..averages import share_error
from ..judge import Judge, Reading, agrees, fulfils, read, shows
from ..sampling import sample


@dataclass(frozen=True)
class Share:
    """A share of hits and its binomial standard error."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def standard_error(self) -> float:
        return share_error(self.value, self.n)

    def as_json(self) -> dict[str, float]:
        """Rounded, for a file of results."""
        return {"value": round(self.value, 4), "standard_error": round(self.standard_error, 4), "n": self.n}


@dataclass(frozen=True)
class InWords:
    """Pictures of full captions: which hit, how many characters and single attributes were right."""

    captions: list[Caption]
    pictures: Tensor
    hits: list[bool]
    characters: Share
    attributes: dict[str, Share]  # kind, colour, accessory where said; layout; background

    @property
    def share(self) -> Share:
        return Share(sum(self.hits), len(self.hits))

    def by_form(self) -> dict[str, Share]:
        """Shares of hits by caption form."""
        forms: dict[str, list[bool]] = {caption.form: [] for caption in self.captions}
        for caption, hit in zip(self.captions, self.hits, strict=True):
            forms[caption.form].append(hit)
        return {form: Share(sum(hits), len(hits)) for form, hits in forms.items()}


def in_words(
    pipeline: ToyPipeline,
    judge: Judge,
    count: int,
    samples: int,
    seed: int = 0,
    forms: tuple[str, ...] = tuple(FORMS),
    on_batch: Callable[[int], object] | None = None,
) -> InWords:
    """Sample scenes of `count` characters from captions that say everything, in all forms in turn."""
    generator = np.random.default_rng([seed, count])
    scenes = [random_scene(generator, count, in_training) for _ in range(samples)]
    captions = [describe(scene, form) for scene, form in zip(scenes, cycle(forms), strict=False)]
    seeds = range(1000 * (seed + 1), 1000 * (seed + 1) + samples)
    pictures = sample(pipeline, [caption.text for caption in captions], seeds=seeds, on_batch=on_batch)
    readings = read(judge, pictures)
    cells = list(zip(readings, captions, scenes, strict=True))
    hits = [fulfils(*cell) for cell in cells]
    return InWords(captions, pictures, hits, *_parts(cells))


def _parts(cells: list[tuple[Reading, Caption, Scene]]) -> tuple[Share, dict[str, Share]]:
    """Shares over characters, at their places or in reading order as in `fulfils`, and over what is said of them."""
    right: dict[str, list[bool]] = {name: [] for name in ("character", *NAMED, "layout", "background")}
    for reading, caption, scene in cells:
        if caption.places_said:
            right["layout"].append(reading.layout == scene.layout)
        right["background"].append(reading.background == scene.background)
        at_places: list[Character | None] = [reading.places.get(place) for place in scene.places]
        in_order = [*reading.characters, *[None] * len(at_places)][: len(at_places)]
        for said, character in zip(caption.said, at_places if caption.places_said else in_order, strict=True):
            right["character"].append(character is not None and agrees(said, character))
            for name in NAMED:
                value = getattr(said, name)
                if character is not None and value is not None:
                    right[name].append(getattr(character, name) == value)
    shares = {name: Share(sum(hits), len(hits)) for name, hits in right.items() if hits}
    return shares.pop("character"), shares


def judge_on_drawings(judge: Judge, count: int, seed: int = 99) -> Share:
    """Share of the characters of fresh drawings that are read right in every attribute and place."""
    generator, hits = np.random.default_rng(seed), []
    for _ in range(-(-count // 32)):
        scenes = [random_scene(generator) for _ in range(32)]
        readings = read(judge, draw_all(scenes))
        for scene, reading in zip(scenes, readings, strict=True):
            hits += [
                reading.places.get(place) == character
                for place, character in zip(scene.places, scene.characters, strict=True)
            ]
    return Share(sum(hits), len(hits))


def look_alikes_passed(judge: Judge, count: int, seed: int = 98) -> Share:
    """Share of drawn look-alikes of the subjects, alone or in company, in which the judge sees the subject."""
    generator, hits = np.random.default_rng(seed), []
    for start in range(0, count, 32):
        scenes, subjects = [], []
        for i in range(start, min(start + 32, count)):
            subject = SUBJECTS[i % len(SUBJECTS)]
            scene = random_scene(generator, allowed=in_training)
            characters: list[Character] = list(scene.characters)
            characters[int(generator.integers(len(characters)))] = look_alike(subject.character, generator)[0]
            scenes.append(Scene(scene.layout, tuple(characters), scene.background))
            subjects.append(subject)
        readings = read(judge, draw_all(scenes))
        hits += [shows(reading, subject.character) for reading, subject in zip(readings, subjects, strict=True)]
    return Share(sum(hits), len(hits))


def parameters(pipeline: ToyPipeline) -> dict[str, int]:
    """Weights of each part."""
    parts: dict[str, torch.nn.Module] = {
        "unet": pipeline.unet,
        "text_encoder": pipeline.text_encoder,
        "decoder": pipeline.autoencoder.decoder,
    }
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
