"""Drawn scenes: things with a shape, two colours and a texture, at named places on a plain background.

A scene is data (`Scene`), a picture is `draw(scene, generator)`: float32 (3, 64, 64) in [0, 1], anti-aliased from
signed distances. Only place and size jitter are random, so pictures of a thing are free and its attributes known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 64  # pixels

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.10, 0.62, 0.20),
    "cyan": (0.15, 0.85, 0.90),
    "blue": (0.12, 0.22, 0.88),
    "purple": (0.52, 0.12, 0.68),
    "pink": (1.00, 0.55, 0.78),
}
TEXTURES = ("plain", "halved", "striped", "bordered", "checkered")
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.05, 0.05, 0.05),
    "white": (0.97, 0.97, 0.97),
    "grey": (0.50, 0.50, 0.50),
    "brown": (0.38, 0.24, 0.14),
}


@dataclass(frozen=True)
class PlaceInScene:
    """Where a thing stands: centre (x, y) and radius in pixels, jitter of the centre in pixels."""

    x: float
    y: float
    radius: float
    jitter: float


PLACES: dict[str, PlaceInScene] = {
    "centre": PlaceInScene(32, 32, 22, 3.0),
    "left": PlaceInScene(16.5, 32, 13.5, 1.5),
    "right": PlaceInScene(47.5, 32, 13.5, 1.5),
    "top left": PlaceInScene(16.5, 16.5, 13.0, 1.5),
    "top right": PlaceInScene(47.5, 16.5, 13.0, 1.5),
    "bottom left": PlaceInScene(16.5, 47.5, 13.0, 1.5),
    "bottom right": PlaceInScene(47.5, 47.5, 13.0, 1.5),
}
LAYOUTS: dict[int, tuple[str, ...]] = {
    1: ("centre",),
    2: ("left", "right"),
    3: ("top left", "top right", "bottom left", "bottom right"),
    4: ("top left", "top right", "bottom left", "bottom right"),
}


@dataclass(frozen=True)
class Thing:
    """One drawn object. `colour2` equals `colour` exactly when the texture is plain."""

    shape: str
    colour: str
    colour2: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """Things by place on a background."""

    things: tuple[tuple[str, Thing], ...]  # (place, thing)
    background: str


_GRID_Y, _GRID_X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


def _polygon(x: np.ndarray, y: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """Signed distance to a simple polygon (negative inside)."""
    distance = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * ex + (y - y0) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - x0 - t * ex, y - y0 - t * ey))
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < ex * (y - y0) / (ey if ey else np.inf) + x0)
    return np.where(inside, -distance, distance)


def _star_corners() -> list[tuple[float, float]]:
    radii = [1.0 if i % 2 == 0 else 0.45 for i in range(10)]
    return [(r * np.sin(i * np.pi / 5), -r * np.cos(i * np.pi / 5)) for i, r in enumerate(radii)]


def _heart_corners() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(float(a) / 16.5, float(b) / 16.5 - 0.1) for a, b in zip(x, y, strict=True)]


_CROSS = [
    (-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36),
    (0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36), (-1, -0.36), (-0.36, -0.36),
]  # fmt: skip
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -0.98), (1.0, 0.82), (-1.0, 0.82)],
    "star": _star_corners(),
    "heart": _heart_corners(),
    "cross": _CROSS,
}


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a unit-size shape in units of its radius, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    return _polygon(x, y, _POLYGONS[shape])


def _second_colour(
    texture: str, shape: str, x: np.ndarray, y: np.ndarray, distance: np.ndarray, soft: float
) -> np.ndarray:
    """How much of the second colour each pixel takes, 0..1. x, y in units of the radius, `soft` = one pixel."""
    if texture == "plain":
        return np.zeros_like(x)
    if texture == "halved":  # left colour, right colour2
        edge = -x
    elif texture == "striped":  # horizontal bands: colour, colour2, colour, colour2
        edge = np.sin(y * 2 * np.pi / 1.0 + np.pi) / (2 * np.pi)
    elif texture == "bordered":  # core colour, rim colour2
        edge = -distance - (0.13 if shape == "cross" else 0.2)
    else:  # checkered: quarters, top left colour
        edge = np.sign(x) * np.sign(y) * np.minimum(np.abs(x), np.abs(y))
    return np.clip(0.5 - edge / soft, 0, 1)


def paint(picture: np.ndarray, thing: Thing, x: float, y: float, radius: float) -> None:
    """Paint one thing over a picture (64, 64, 3), in place. Centre and radius in pixels."""
    left, right = max(0, int(x - 1.1 * radius - 1)), int(x + 1.1 * radius + 2)
    top, bottom = max(0, int(y - 1.1 * radius - 1)), int(y + 1.1 * radius + 2)
    window = picture[top:bottom, left:right]
    u = (_GRID_X[top:bottom, left:right] - x) / radius
    v = (_GRID_Y[top:bottom, left:right] - y) / radius
    soft = 1.0 / radius
    distance = signed_distance(thing.shape, u, v)
    cover = np.clip(0.5 - distance / soft, 0, 1)[..., None]
    share = _second_colour(thing.texture, thing.shape, u, v, distance, soft)[..., None]
    colour = np.array(COLOURS[thing.colour]) * (1 - share) + np.array(COLOURS[thing.colour2]) * share
    window *= 1 - cover
    window += cover * colour


def draw(scene: Scene, generator: np.random.Generator) -> np.ndarray:
    """Picture of a scene, float32 (3, 64, 64) in [0, 1]; place and size are jittered."""
    picture = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for name, thing in scene.things:
        place = PLACES[name]
        dx, dy = generator.uniform(-place.jitter, place.jitter, 2)
        paint(picture, thing, place.x + dx, place.y + dy, place.radius * generator.uniform(0.92, 1.06))
    return np.ascontiguousarray(picture.transpose(2, 0, 1))  # (3, 64, 64)
