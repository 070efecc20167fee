"""ToyWorld's objects: what each is made of, in pixels of a 64-pixel box centred on 0."""

from dataclasses import dataclass

import numpy as np

from .outlines import (
    Figure,
    Point,
    above,
    box,
    circle,
    ellipse,
    intersection,
    line,
    polygon,
    ring,
    strip,
    union,
)

RGB = tuple[int, int, int]

CREAM, WHITE, DARK = (246, 236, 216), (250, 250, 248), (48, 46, 52)
BROWN, SLATE, LEAF, GLASS = (122, 80, 50), (104, 96, 104), (84, 142, 62), (196, 224, 240)


@dataclass(frozen=True)
class Part:
    """A solid with one outline, seen from above.

    Attributes:
        paint: its colour; None is the object's.
        depth: pixels over which it rises from its rim: small is a plate, large a ball.
        gloss: strength of the highlight, 0..1.
        tone: brightness of the colour.
        surface: outline of the relief, if not its own: a cylinder rises from two of its sides.
    """

    outline: Figure
    paint: RGB | None = None
    depth: float = 8.0
    gloss: float = 0.35
    tone: float = 1.0
    surface: Figure | None = None


def _star(radius: float, hollow: float, cx: float = 0.0, cy: float = 0.0) -> list[Point]:
    turn = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2, hollow, radius)
    return [*zip(cx + reach * np.sin(turn), cy - reach * np.cos(turn), strict=True)]


def _heart(scale: float) -> list[Point]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [*zip(scale * 16 * np.sin(t) ** 3, -scale * (y + 2.5), strict=True)]


def _petals(count: int, reach: float, radius: float) -> list[Part]:
    turns = (np.arange(count) + 0.25) * 2 * np.pi / count
    spots = zip(reach * np.sin(turns), -reach * np.cos(turns), strict=True)
    return [Part(circle(x, y, radius), depth=radius, gloss=0.15) for x, y in spots]


# Parts from back to front.
OBJECTS: dict[str, tuple[Part, ...]] = {
    "star": (Part(polygon(_star(25, 12.5, 0, 2), 2.5), depth=12, gloss=0.5),),
    "heart": (Part(polygon(_heart(1.55), 1.5), depth=15, gloss=0.6),),
    "apple": (
        Part(union(circle(-8.5, 5, 17), circle(8.5, 5, 17), circle(0, 12, 14), blend=5), depth=17),
        Part(line(1.8, (0, -9), (1, -16), (4, -22)), BROWN, 2, 0.1),
        Part(intersection(circle(8, -26, 13), circle(17, -9, 13)), LEAF, 4, 0.2),
    ),
    "mushroom": (
        Part(box(0, 13, 8.5, 13, 5), CREAM, 8, 0.1, surface=strip(0, 8.5)),
        Part(intersection(ellipse(0, 3, 27, 29), above(4)), depth=14),
        Part(circle(-13, -6, 4.6), CREAM, 2, 0.0),
        Part(circle(3, -15, 5.2), CREAM, 2, 0.0),
        Part(circle(14, -4, 3.8), CREAM, 2, 0.0),
        Part(circle(-1, -1.5, 3.2), CREAM, 2, 0.0),
    ),
    "tree": (
        Part(box(0, 17.5, 4.2, 9, 2), BROWN, 4, 0.05, surface=strip(0, 4.2)),
        Part(circle(-12, 3, 12.5), depth=12, gloss=0.1),
        Part(circle(12, 3, 12.5), depth=12, gloss=0.1, tone=0.92),
        Part(circle(0, -13, 14), depth=13, gloss=0.12),
        Part(circle(0, 4, 11.5), depth=11, gloss=0.1, tone=0.96),
    ),
    "house": (
        Part(box(0, 11, 20, 14.5), depth=2, gloss=0.05),
        Part(polygon([(-25, -3), (0, -25), (25, -3)], 2), SLATE, 5, 0.1),
        Part(box(-8, 17, 5.5, 8.5, 1), BROWN, 1.5, 0.05),
        Part(box(9, 11, 5.5, 5.5, 1), GLASS, 1.5, 0.3),
    ),
    "boat": (
        Part(line(1.6, (0, -25), (0, 12)), BROWN, 2, 0.1),
        Part(polygon([(4, -21), (4, 6), (22, 6)], 1.2), WHITE, 6, 0.0),
        Part(polygon([(-4, -15), (-4, 6), (-17, 6)], 1.2), CREAM, 6, 0.0, 0.95),
        Part(polygon([(-25, 12), (25, 12), (17, 24), (-16, 24)], 2), depth=9, gloss=0.3),
    ),
    "fish": (
        Part(polygon([(10, 0), (24, -14), (21, 0), (24, 14)], 2), depth=4, gloss=0.1, tone=0.85),
        Part(polygon([(-8, -11), (3, -20), (8, -8)], 2), depth=4, gloss=0.1, tone=0.85),
        Part(ellipse(-5, 1, 21, 15), depth=14, gloss=0.45),
        Part(circle(-15, -3, 4.6), WHITE, 3, 0.0),
        Part(circle(-15.7, -3, 2.4), DARK, 2, 0.5),
    ),
    "balloon": (
        Part(line(1.1, (0, 12), (2.5, 17), (-1.5, 22), (0.5, 25.5)), DARK, 1, 0.0),
        Part(polygon([(-3, 15), (0, 11), (3, 15)], 1.2), depth=2, tone=0.8),
        Part(ellipse(0, -7.5, 18.5, 20), depth=19, gloss=0.75),
    ),
    "mug": (
        Part(ring(15, 3, 9, 3.4), depth=3.4, gloss=0.3),
        Part(box(-5, 3, 17, 22, 6), depth=16, gloss=0.4, surface=strip(-5, 17)),
        Part(ellipse(-5, -16, 17, 5.5), depth=2, gloss=0.1, tone=1.12),
        Part(ellipse(-5, -15.5, 13.5, 3.5), (84, 52, 36), 2, 0.1),
    ),
    "flower": (
        *_petals(6, 15.5, 10.5),
        Part(circle(0, 0, 8.5), (112, 70, 36), 7, 0.15),
    ),
    "car": (
        Part(polygon([(-17, 2), (-10, -13), (9, -13), (18, 2)], 2.5), depth=5, gloss=0.35),
        Part(polygon([(-12.5, -0.5), (-7.5, -10), (-2.5, -10), (-2.5, -0.5)], 0.8), GLASS, 2, 0.4),
        Part(polygon([(13.5, -0.5), (7.5, -10), (2.0, -10), (2.0, -0.5)], 0.8), GLASS, 2, 0.4),
        Part(box(0, 8, 27, 9, 6), depth=8, gloss=0.45),
        Part(circle(-14, 17, 7.6), DARK, 5, 0.1),
        Part(circle(14, 17, 7.6), DARK, 5, 0.1),
        Part(circle(-14, 17, 3.2), (190, 192, 198), 2, 0.2),
        Part(circle(14, 17, 3.2), (190, 192, 198), 2, 0.2),
    ),
}  # fmt: skip
