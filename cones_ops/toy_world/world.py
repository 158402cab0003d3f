"""What there is to draw: characters, the places they may stand at, backgrounds, scenes. Plain data, no pixels.

A character is a vector of names. Captions may say its kind, colour and accessory; its second colour, eyes and variant
have no words, so that "a red cat" means many cats and a subject is one of them. Forty styles, each a second colour,
eyes and variant together, have a name, as brands and famous characters have in captions of the web. No subject has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIDE = 96  # pixels of a square picture
ZOOM = 1.0  # of collages: a character alone is as large as one of four

KINDS = ("cat", "owl", "fish", "ghost", "robot", "rocket", "mug", "house", "mushroom", "cactus")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 56, 52),
    "orange": (243, 142, 40),
    "yellow": (250, 212, 60),
    "green": (78, 168, 82),
    "blue": (58, 108, 214),
    "purple": (142, 82, 188),
    "pink": (244, 150, 190),
    "white": (248, 246, 240),
}
ACCESSORIES = ("none", "hat", "bow")
# without words of their own
EYES = ("wide", "dots", "shades", "one")
VARIANTS = ("first", "second")  # of the ears, tail, fins, handle, roof ..., by kind

BACKGROUNDS = ("meadow", "beach", "night", "room", "snow", "paper")

NAMED = ("kind", "colour", "accessory")
UNNAMED = ("second", "eyes", "variant")
STYLES: dict[str, tuple[str, str, str]] = {  # name in captions -> second colour, eyes, variant
    "anton": ("red", "wide", "second"),
    "berta": ("white", "one", "second"),
    "bruno": ("green", "one", "second"),
    "carlo": ("pink", "one", "second"),
    "dora": ("purple", "dots", "second"),
    "ella": ("blue", "shades", "second"),
    "emil": ("white", "shades", "second"),
    "felix": ("green", "dots", "second"),
    "finn": ("orange", "shades", "second"),
    "frida": ("green", "one", "first"),
    "gino": ("red", "one", "first"),
    "greta": ("red", "shades", "first"),
    "hanna": ("white", "wide", "first"),
    "hugo": ("white", "dots", "second"),
    "ida": ("orange", "wide", "second"),
    "ivan": ("green", "wide", "first"),
    "jade": ("yellow", "wide", "second"),
    "kira": ("pink", "wide", "first"),
    "lars": ("orange", "shades", "first"),
    "leo": ("purple", "shades", "first"),
    "luna": ("blue", "one", "second"),
    "max": ("orange", "dots", "second"),
    "mimi": ("white", "shades", "first"),
    "mona": ("purple", "wide", "first"),
    "nils": ("orange", "one", "first"),
    "nora": ("orange", "dots", "first"),
    "olga": ("yellow", "dots", "first"),
    "oscar": ("red", "one", "second"),
    "otto": ("purple", "dots", "first"),
    "pablo": ("pink", "dots", "first"),
    "rosa": ("blue", "wide", "second"),
    "ruby": ("white", "wide", "second"),
    "sven": ("red", "dots", "first"),
    "theo": ("blue", "dots", "second"),
    "tina": ("yellow", "shades", "first"),
    "uma": ("pink", "shades", "first"),
    "viktor": ("purple", "one", "second"),
    "wanda": ("green", "shades", "second"),
    "yuri": ("purple", "wide", "second"),
    "zoe": ("yellow", "one", "first"),
}
STYLE_NAMES = {look: name for name, look in STYLES.items()}
VALUES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "accessory": ACCESSORIES,
    "second": tuple(COLOURS),
    "eyes": EYES,
    "variant": VARIANTS,
}


@dataclass(frozen=True)
class Character:
    """One drawn thing; each field is one of VALUES[field], and `second` differs from `colour`."""

    kind: str
    colour: str
    accessory: str
    second: str
    eyes: str
    variant: str

    @property
    def style(self) -> str | None:
        """The name of its second colour, eyes and variant together, where they have one."""
        return STYLE_NAMES.get((self.second, self.eyes, self.variant))


@dataclass(frozen=True)
class Place:
    """A named place: its centre in pixels."""

    x: float
    y: float


RADIUS = 19  # pixels: half of a character's height, without its accessory

# All characters are of one size and on one grid of 12 pixels, the patches of the latents: what a model learns of a
# character at one place then holds at every other place. That makes it learnable on two cores.
_CORNERS = {
    "top left": Place(24, 26),
    "top right": Place(72, 26),
    "bottom left": Place(24, 74),
    "bottom right": Place(72, 74),
}
LAYOUTS: dict[str, dict[str, Place]] = {  # in reading order
    "one": {"middle": Place(48, 50)},
    "two": {"left": Place(24, 50), "right": Place(72, 50)},
    "roof": {"top": Place(48, 26), **{name: _CORNERS[name] for name in ("bottom left", "bottom right")}},
    "cup": {**{name: _CORNERS[name] for name in ("top left", "top right")}, "bottom": Place(48, 74)},
    "four": _CORNERS,
}
LAYOUTS |= {f"no {empty}": {name: _CORNERS[name] for name in _CORNERS if name != empty} for empty in _CORNERS}
LAYOUTS_OF = {1: ("one",), 2: ("two",), 3: tuple(name for name in LAYOUTS if len(LAYOUTS[name]) == 3), 4: ("four",)}
PLACES = ("middle", "left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right")


def rows(places: Sequence[str]) -> list[list[int]]:
    """Positions of the places of the upper row, then of the lower, where there are two."""
    upper = [i for i, place in enumerate(places) if not place.startswith("bottom")]
    lower = [i for i, place in enumerate(places) if place.startswith("bottom")]
    return [row for row in (upper, lower) if row]


@dataclass(frozen=True)
class Scene:
    """Characters at the places of a layout, in reading order, on a background."""

    layout: str
    characters: tuple[Character, ...]
    background: str

    @property
    def places(self) -> tuple[str, ...]:
        """The place of each character."""
        return tuple(LAYOUTS[self.layout])

    def at(self, place: str) -> Character | None:
        """Who stands at a place."""
        return dict(zip(self.places, self.characters, strict=True)).get(place)
