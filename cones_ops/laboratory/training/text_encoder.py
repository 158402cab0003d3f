"""Train the toy text encoder on captions alone, before and apart from any picture, as CLIP comes to Stable Diffusion.

Every token must name itself (which keeps the meaningless identifiers distinct from one another and from filler words,
without which no K/V method can tell "a sks star" from "a star"); the class word and what follows it must name the
attributes mentioned of its thing; the end token must name the background and the number of things. Then it is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...toy_world.bundle import ToyPipeline
from ...toy_world.captions import Description, caption
from ...toy_world.subjects import IDENTIFIERS
from ...toy_world.vocabulary import END, Vocabulary
from ...toy_world.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES
from ..scenes import random_scene

_VALUES: tuple[tuple[str, ...], ...] = (
    SHAPES,
    tuple(COLOURS),
    tuple(COLOURS),
    TEXTURES,
    IDENTIFIERS,
    tuple(BACKGROUNDS),
    ("1", "2", "3", "4"),
)
_SKIP = -100  # cross_entropy's own "no target here"


def _attributes(thing: Description) -> list[int]:
    """Class per thing-attribute, 0 = not mentioned."""
    words = (thing.shape, *(*(thing.colours or ()), None, None)[:2], thing.texture, thing.identifier)
    return [0 if word is None else values.index(word) + 1 for word, values in zip(words, _VALUES[:5], strict=True)]


def labels(text: str, things: list[Description], words: Vocabulary) -> np.ndarray:
    """Targets (tokens, 7): five attributes from each class word on, background and count from the end token on."""
    split = words.split(text)
    target = np.full((words.length, len(_VALUES)), _SKIP, dtype=np.int64)
    rest, current = list(things), None
    for position, word in enumerate(split, start=1):
        if word in SHAPES:
            current = _attributes(rest.pop(0))
        elif word in ("a", ",", "and"):
            current = None
        if current is not None:
            target[position, :5] = current
    background = list(BACKGROUNDS).index(split[-2]) + 1 if split and split[-1] == "background" else 0
    target[len(split) + 1 :, 5:] = background, len(things)
    return target


def batch(words: Vocabulary, size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and targets (B, L, 7) of fresh captions."""
    ids, targets = [], []
    for _ in range(size):
        text, things = caption(random_scene(generator), generator)
        ids.append(words.encode(text))
        targets.append(labels(text, things, words))
    return torch.tensor(ids), torch.from_numpy(np.stack(targets))


def train_text_encoder(pipeline: ToyPipeline, steps: int, log: Callable[[str], None], seed: int = 0) -> None:
    """Train `pipeline.text_encoder` in place; leaves it frozen."""
    encoder, generator = pipeline.text_encoder, np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = encoder.config.hidden_size
    self_head = nn.Linear(width, len(pipeline.vocabulary.words))
    heads = nn.Linear(width, sum(len(values) + 1 for values in _VALUES))
    encoder.requires_grad_(True).train()
    parameters = [*encoder.parameters(), *self_head.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    began = time.monotonic()
    for step in range(steps):
        ids, targets = batch(pipeline.vocabulary, 48, generator)
        hidden = encoder(input_ids=ids).last_hidden_state  # (B, L, D)
        named = F.cross_entropy(self_head(hidden).flatten(0, 1), ids.flatten().masked_fill(ids.flatten() == END, _SKIP))
        logits = heads(hidden).split([len(values) + 1 for values in _VALUES], dim=-1)
        losses = torch.stack(
            [F.cross_entropy(scores.flatten(0, 1), targets[..., i].flatten()) for i, scores in enumerate(logits)]
        )
        optimizer.zero_grad()
        (named + losses.sum()).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            attributes = " ".join(f"{loss:.4f}" for loss in losses.tolist())
            log(f"text step {step} self {named.item():.4f} attributes {attributes} {time.monotonic() - began:.0f} s")
    encoder.requires_grad_(False).eval()
