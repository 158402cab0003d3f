"""The judge: a small classifier that reads every attribute of every character, named and unnamed, and its place.

One network looks at the window around each named place, scaled to 48x48, and says whether a character stands there,
and which; another head reads the background. The places together must be those of a layout. It has never seen a
generated picture and is strict: an attribute that it is not sure of counts as wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConesError
from ..toy_world.captions import Caption, Said
from ..toy_world.world import BACKGROUNDS, LAYOUTS, NAMED, PLACES, RADIUS, SIDE, VALUES, Character, Place, Scene

SHIPPED = Path(__file__).with_name("judge.safetensors")
WINDOW = 48  # pixels of the scaled window
REACH = RADIUS * 1.25 + 4  # pixels of a picture from a place's centre to its window's edge
SURE = 0.6  # probability below which an attribute counts as unreadable
SIZES = (2, *(len(values) for values in VALUES.values()))  # present?, then the attributes
_PLACES: dict[str, Place] = {name: places[name] for places in LAYOUTS.values() for name in places}
UNSURE = "?"


@dataclass(frozen=True)
class Reading:
    """What the judge sees: a layout, the character at each of its places ("?" = unreadable), the background."""

    layout: str
    characters: tuple[Character, ...]
    background: str

    @property
    def places(self) -> dict[str, Character]:
        """Characters by place, in reading order."""
        return dict(zip(LAYOUTS[self.layout], self.characters, strict=True))


class Judge(nn.Module):
    """Logits of one window (presence and attributes) and of its background."""

    def __init__(self) -> None:
        super().__init__()

        def block(inside: int, outside: int, size: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)
            return [convolution, nn.BatchNorm2d(outside), nn.ReLU()]

        self.trunk = nn.Sequential(
            *block(3, 48, 5, 2), *block(48, 96, 3, 2), *block(96, 96, 3, 1), *block(96, 128, 3, 2),
            *block(128, 128, 3, 1), nn.Flatten(), nn.Linear(128 * 36, 256), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.Linear(256, sum(SIZES))
        self.background = nn.Linear(256, len(BACKGROUNDS))

    def forward(self, windows_: Tensor) -> tuple[list[Tensor], Tensor]:
        """Windows (n, 3, 48, 48) in [-1, 1] -> logits of presence and each attribute, and of the background."""
        hidden = self.trunk(windows_)
        return list(self.heads(hidden).split(SIZES, dim=1)), self.background(hidden)


def windows(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, 96, 96) -> windows (B, places, 3, 48, 48), in the order of PLACES."""
    cut = []
    for name in PLACES:
        place = _PLACES[name]
        x0, x1 = max(0, round(place.x - REACH)), min(SIDE, round(place.x + REACH))
        y0, y1 = max(0, round(place.y - REACH)), min(SIDE, round(place.y + REACH))
        part = pictures[:, :, y0:y1, x0:x1]
        cut.append(F.interpolate(part, (WINDOW, WINDOW), mode="bilinear", antialias=True, align_corners=False))
    return torch.stack(cut, 1)


def load_judge(path: Path | None = None) -> Judge:
    """The judge of the repository or of another file, in eval mode."""
    path = path or SHIPPED
    if not path.is_file():
        raise ConesError(f"{path}: no such file; python -m cones_ops.laboratory.training judge makes it")
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def read(judge: Judge, pictures: Tensor, chunk: int = 32) -> list[Reading]:
    """Readings of pictures (B, 3, 96, 96) in [0, 1]."""
    readings = []
    for part in pictures.clamp(0, 1).float().split(chunk):
        logits, background = judge(windows(part * 2 - 1).flatten(0, 1))  # (B * places, ...)
        shares = [logit.softmax(1).view(len(part), len(PLACES), -1) for logit in logits]
        grounds = background.view(len(part), len(PLACES), -1).log_softmax(-1).mean(1).argmax(1).tolist()
        for row, ground in enumerate(grounds):
            readings.append(_reading([share[row] for share in shares], BACKGROUNDS[ground]))
    return readings


def _reading(shares: list[Tensor], background: str) -> Reading:
    there = shares[0][:, 1].clamp(1e-6, 1 - 1e-6)
    scores = {
        layout: sum(float((there[i] if name in places else 1 - there[i]).log()) for i, name in enumerate(PLACES))
        for layout, places in LAYOUTS.items()
    }
    layout = max(scores, key=lambda name: scores[name])
    characters = tuple(_character([share[PLACES.index(place)] for share in shares[1:]]) for place in LAYOUTS[layout])
    return Reading(layout, characters, background)


def _character(shares: list[Tensor]) -> Character:
    values = {}
    for (name, options), share in zip(VALUES.items(), shares, strict=True):
        best = int(share.argmax())
        values[name] = options[best] if float(share[best]) >= SURE else UNSURE
    return Character(**values)


def shows(reading: Reading, character: Character) -> bool:
    """Whether the character, with every attribute right, named or not, stands anywhere in the picture."""
    return character in reading.characters


def agrees(said: Said, character: Character) -> bool:
    """Whether a character is as it was said to be."""
    return all(getattr(said, name) in (None, getattr(character, name)) for name in NAMED)


def fulfils(reading: Reading, caption: Caption, scene: Scene) -> bool:
    """Whether a picture is what the caption says: everybody, in their places or reading order, nobody else.

    Where the caption says places, they must be those; otherwise the order from left to right and top to bottom counts.
    The background counts where it is said.
    """
    if len(reading.characters) != len(caption.said):
        return False
    if caption.places_said and reading.layout != scene.layout:
        return False
    if caption.background and reading.background != caption.background:
        return False
    return all(agrees(said, character) for said, character in zip(caption.said, reading.characters, strict=True))
