"""Drawing in a character's own coordinates: the origin is its centre, its radius is 1, y points down."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1), or lighter by as much of the way to white as factor exceeds 1."""
    if factor <= 1:
        return tuple(int(part * factor) for part in colour)  # type: ignore[return-value]
    return tuple(int(part + (255 - part) * (factor - 1)) for part in colour)  # type: ignore[return-value]


class Pen:
    """Shapes on a picture; every method takes the character's coordinates. `edge` outlines in that colour."""

    edge_width = 0.075

    def __init__(self, picture: Image.Image, x: float, y: float, width: float, height: float) -> None:
        self.picture, self.draw = picture, ImageDraw.Draw(picture)
        self.x, self.y, self.width, self.height = x, y, width, height

    def points(self, corners: Sequence[Point]) -> list[Point]:
        """Pixels of these corners."""
        return [(self.x + x * self.width, self.y + y * self.height) for x, y in corners]

    def _pixels(self, width: float) -> int:
        return max(1, round(width * (self.width + self.height) / 2))

    def _box(self, x: float, y: float, rx: float, ry: float) -> list[Point]:
        return self.points([(x - abs(rx), y - abs(ry)), (x + abs(rx), y + abs(ry))])

    def oval(self, x: float, y: float, rx: float, ry: float, fill: object, edge: object = None) -> None:
        """An ellipse around (x, y)."""
        width = self._pixels(self.edge_width) if edge is not None else 0
        self.draw.ellipse(self._box(x, y, rx, ry), fill=fill, outline=edge, width=width)  # type: ignore[arg-type]

    def dot(self, x: float, y: float, r: float, fill: object, edge: object = None, tall: float = 1.0) -> None:
        """A circle whatever the character's proportions; `tall` stretches it."""
        size = (self.width * self.height) ** 0.5
        self.oval(x, y, r * size / self.width, r * tall * size / self.height, fill, edge)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: object, edge: object = None, r: float = 0.0
    ) -> None:
        """A rectangle with corners of radius r."""
        width = self._pixels(self.edge_width) if edge is not None else 0
        corners = self.points([(min(x0, x1), y0), (max(x0, x1), y1)])
        self.draw.rounded_rectangle(corners, self._pixels(r) if r else 0, fill=fill, outline=edge, width=width)  # type: ignore[arg-type]

    def polygon(self, corners: Sequence[Point], fill: object, edge: object = None) -> None:
        """A polygon with rounded outline."""
        pixels = self.points(corners)
        self.draw.polygon(pixels, fill=fill)  # type: ignore[arg-type]
        if edge is not None:
            ring = [*pixels, pixels[0], pixels[1]]
            self.draw.line(ring, fill=edge, width=self._pixels(self.edge_width), joint="curve")  # type: ignore[arg-type]

    def dome(self, x: float, y: float, rx: float, ry: float, fill: object, edge: object = None) -> None:
        """The upper half of an ellipse around (x, y)."""
        width = self._pixels(self.edge_width) if edge is not None else 0
        self.draw.pieslice(self._box(x, y, rx, ry), 180, 360, fill=fill, outline=edge, width=width)  # type: ignore[arg-type]

    def line(self, corners: Sequence[Point], fill: object, width: float) -> None:
        """An open line."""
        self.draw.line(self.points(corners), fill=fill, width=self._pixels(width), joint="curve")  # type: ignore[arg-type]

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: object, width: float
    ) -> None:
        """Part of an ellipse's outline, degrees clockwise from the right."""
        self.draw.arc(self._box(x, y, rx, ry), start, end, fill=fill, width=self._pixels(width))  # type: ignore[arg-type]
