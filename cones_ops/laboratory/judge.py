"""The judge: a small classifier of drawn pictures that reads each thing's shape, colours, texture and place.

One network looks at the window of each named place, scaled to 32x32, and says which thing stands there or that none
does; another head reads the background. It has never seen a generated picture and is as strict as the drawings:
`shows` asks for shape, both colours in their roles and texture at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConesError
from ..toy_world.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIDE, TEXTURES, Scene, Thing

SHIPPED = Path(__file__).with_name("judge.safetensors")
WINDOW = 32  # pixels of the scaled window
_SIZES = (2, len(SHAPES), len(COLOURS), len(COLOURS), len(TEXTURES))  # present?, shape, colour, colour2, texture


@dataclass(frozen=True)
class Reading:
    """What the judge sees: things by place, and the background."""

    things: tuple[tuple[str, Thing], ...]
    background: str


class Judge(nn.Module):
    """Logits of one window (presence, shape, colour, colour2, texture) and of a picture's background."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(),
            nn.Conv2d(96, 96, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(96 * 16, 192), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.Linear(192, sum(_SIZES))
        self.background = nn.Linear(192, len(BACKGROUNDS))

    def forward(self, windows_: Tensor) -> tuple[list[Tensor], Tensor]:
        """Windows (n, 3, 32, 32) in [0, 1] -> per-attribute logits and background logits."""
        hidden = self.trunk(windows_ * 2 - 1)
        return list(self.heads(hidden).split(_SIZES, dim=1)), self.background(hidden)


def windows(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64) -> windows (B, places, 3, 32, 32), in the order of PLACES."""
    cut = []
    for place in PLACES.values():
        half = min(place.radius * 1.06 + place.jitter + 1, 32)
        x0, x1 = max(0, round(place.x - half)), min(SIDE, round(place.x + half))
        y0, y1 = max(0, round(place.y - half)), min(SIDE, round(place.y + half))
        window = pictures[:, :, y0:y1, x0:x1]
        cut.append(F.interpolate(window, (WINDOW, WINDOW), mode="bilinear", antialias=True, align_corners=False))
    return torch.stack(cut, 1)


def load_judge(path: Path | None = None) -> Judge:
    """The shipped judge, in eval mode."""
    path = path or SHIPPED
    if not path.is_file():
        raise ConesError(f"{path}: no such file; `python -m cones_ops.laboratory.training judge` makes it")
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def read(judge: Judge, pictures: Tensor, chunk: int = 64) -> list[Reading]:
    """Readings of pictures (B, 3, 64, 64) in [0, 1]."""
    readings = []
    for batch in pictures.clamp(0, 1).float().split(chunk):
        logits, background = judge(windows(batch).flatten(0, 1))  # (B * places, ...)
        best = torch.stack([scores.argmax(1) for scores in logits], 1).view(len(batch), len(PLACES), -1).tolist()
        grounds = background.softmax(1).view(len(batch), len(PLACES), -1).mean(1).argmax(1).tolist()
        for row, ground in zip(best, grounds, strict=True):
            things = ((place, _thing(numbers)) for place, numbers in zip(PLACES, row, strict=True) if numbers[0] == 1)
            readings.append(Reading(tuple(things), list(BACKGROUNDS)[ground]))
    return readings


def _thing(numbers: list[int]) -> Thing:
    colours = list(COLOURS)
    texture = TEXTURES[numbers[4]]
    return Thing(SHAPES[numbers[1]], colours[numbers[2]], colours[numbers[2 if texture == "plain" else 3]], texture)


def shows(reading: Reading, thing: Thing) -> bool:
    """Whether the thing, with every attribute right, stands anywhere in the picture."""
    return thing in dict(reading.things).values()


def matches(reading: Reading, scene: Scene) -> bool:
    """Whether a reading is the scene: the same things at the same places, no other, and its background."""
    return dict(reading.things) == dict(scene.things) and reading.background == scene.background
