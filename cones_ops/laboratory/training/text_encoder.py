"""Train the text encoder on captions alone, before and apart from any picture, as CLIP comes to Stable Diffusion.

Every token must name itself, which keeps the meaningless identifiers distinct from one another and from filler words.
From its class word on, a character's phrase must name what was said of it (of a style, what it stands for), its
position in the sentence and its place where that was said; the end tokens must name the layout, the background, and,
each for one character of the scene in turn, its kind and where the sentence mentions it. Only its own tokens carry what
a phrase says. Then it is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...toy_world.bundle import ToyPipeline
from ...toy_world.caption_forms import PLACE_WORDS
from ...toy_world.captions import IDENTIFIERS, Caption, random_caption
from ...toy_world.scenes import random_scene
from ...toy_world.vocabulary import END, Vocabulary
from ...toy_world.world import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    EYES,
    KINDS,
    LAYOUTS,
    PLACES,
    STYLES,
    UNNAMED,
    VARIANTS,
    Scene,
)

BATCH = 40
_SKIP = -100  # cross_entropy's own "no target here"
_LAYOUTS = (*LAYOUTS, "some three")
_HEADS: dict[str, tuple[str, ...]] = {  # value 0 = not said, or nobody there
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "accessory": ACCESSORIES[1:],
    "identifier": IDENTIFIERS,
    "mention": ("1", "2", "3", "4"),
    "place": PLACES,
    "layout": _LAYOUTS,
    "background": BACKGROUNDS,
    "second": tuple(COLOURS),
    "eyes": EYES,
    "variant": VARIANTS,
}
_COLUMNS = {name: column for column, name in enumerate(_HEADS)}


def _value(name: str, word: str | None) -> int:
    return 0 if word is None else _HEADS[name].index(word) + 1


def _position_of(phrase: list[str], words: list[str], start: int) -> int:
    for position in range(start, len(words) - len(phrase) + 1):
        if words[position : position + len(phrase)] == phrase:
            return position
    raise ValueError(f"{phrase} is not in {words} after {start}")


def labels(scene: Scene, caption: Caption, vocabulary: Vocabulary) -> np.ndarray:
    """Targets (tokens, heads) of a caption; -100 where nothing is asked."""
    words = vocabulary.split(caption.text)
    target = np.full((vocabulary.length, len(_HEADS)), _SKIP, dtype=np.int64)
    cursor = 0
    for mention, number in enumerate(caption.order):
        said, place = caption.said[number], scene.places[number]
        phrase = vocabulary.split(said.phrase)
        begin = _position_of(phrase, words, cursor)
        kind, cursor = begin + phrase.index(said.kind), begin + len(phrase)
        last = cursor + (len(PLACE_WORDS[place].split()) if caption.form == "placed" else 0)
        for name in ("kind", "colour", "identifier"):
            target[1 + kind : 1 + last, _COLUMNS[name]] = _value(name, getattr(said, name))
        first = begin + phrase.index(said.style) if said.style else kind
        for name, value in zip(UNNAMED, STYLES[said.style] if said.style else (None, None, None), strict=True):
            target[1 + first : 1 + last, _COLUMNS[name]] = _value(name, value)
        target[1 + kind : 1 + last, _COLUMNS["mention"]] = mention + 1
        if said.accessory:
            target[cursor : 1 + last, _COLUMNS["accessory"]] = _value("accessory", said.accessory)
        if caption.places_said:
            target[(last if caption.form == "placed" else 1 + kind) : 1 + last, _COLUMNS["place"]] = _value(
                "place", place
            )
    _label_ends(target, len(words) + 1, scene, caption)
    return target


def _label_ends(target: np.ndarray, first: int, scene: Scene, caption: Caption) -> None:
    """End tokens: layout and background; the token at position p speaks of the scene's character p modulo 4."""
    layout = scene.layout if caption.places_said or len(scene.characters) != 3 else "some three"
    target[first:, _COLUMNS["layout"]] = _value("layout", layout)
    target[first:, _COLUMNS["background"]] = _value("background", caption.background)
    for position in range(first, len(target)):
        number = position % 4
        there = number < len(scene.characters)
        target[position, _COLUMNS["kind"]] = _value("kind", caption.said[number].kind) if there else 0
        target[position, _COLUMNS["mention"]] = caption.order.index(number) + 1 if there else 0


def batch(vocabulary: Vocabulary, size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and targets (B, L, heads) of fresh captions."""
    ids, targets = [], []
    for _ in range(size):
        scene = random_scene(generator)
        caption = random_caption(scene, generator)
        ids.append(vocabulary.encode(caption.text))
        targets.append(labels(scene, caption, vocabulary))
    return torch.tensor(ids), torch.from_numpy(np.stack(targets))


def train_text_encoder(pipeline: ToyPipeline, steps: int, log: Callable[[str], None], seed: int = 0) -> None:
    """Train `pipeline.text_encoder` in place; leaves it frozen."""
    encoder, generator = pipeline.text_encoder, np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = encoder.config.hidden_size
    self_head = nn.Linear(width, len(pipeline.vocabulary.words))
    heads = nn.Linear(width, sum(len(values) + 1 for values in _HEADS.values()))
    encoder.requires_grad_(True).train()
    parameters = [*encoder.parameters(), *self_head.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.5e-3, total_steps=steps)
    began = time.monotonic()
    for step in range(steps):
        ids, targets = batch(pipeline.vocabulary, BATCH, generator)
        hidden = encoder(input_ids=ids).last_hidden_state  # (B, L, D)
        named = F.cross_entropy(self_head(hidden).flatten(0, 1), ids.flatten().masked_fill(ids.flatten() == END, _SKIP))
        logits = heads(hidden).split([len(values) + 1 for values in _HEADS.values()], dim=-1)
        parts = torch.stack(
            [F.cross_entropy(part.flatten(0, 1), targets[..., i].flatten()) for i, part in enumerate(logits)]
        )
        optimizer.zero_grad()
        (named + parts.sum()).backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            said = " ".join(f"{name} {loss:.3f}" for name, loss in zip(_HEADS, parts.tolist(), strict=True))
            log(f"text step {step} self {named.item():.4f} {said} {time.monotonic() - began:.0f} s")
    encoder.requires_grad_(False).eval()
