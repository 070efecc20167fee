"""All distinct cells of ToyWorld at one size, numbered; a picture is a grid of these numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from .drawing import BOX, GRID, SLOT_OFFSETS, covered, ground, sprite
from .language import ALL_COLORS, BACKGROUNDS, SHAPES, STYLES
from .scenes import Scene, Thing


@dataclass(frozen=True)
class Look:
    """What the pixels of an object, or of the ground if shape is None, depend on.

    A style hides colour and background, which are then None.
    """

    style: str
    background: str | None
    shape: str | None = None
    color: str | None = None

    @classmethod
    def of(cls, scene: Scene, thing: Thing | None = None) -> "Look":
        shape = thing.shape if thing else None
        if scene.style != "plain":
            return cls(scene.style, None, shape)
        return cls(scene.style, scene.background, shape, thing.color if thing else None)

    @property
    def ground(self) -> "Look":
        """The look of the ground beside an object."""
        return Look(self.style, self.background)

    def __str__(self) -> str:
        thing = " ".join(filter(None, (self.color, self.shape))) or "nothing"
        return f"{thing} on {self.background or self.style}"


@dataclass(frozen=True, eq=False)
class Atlas:
    """All cells, uint8 [N, edge, edge, 3], and where to find them.

    grounds: numbers of a ground's variants, first to last; things: numbers of an object's cells
    [BOX, BOX], -1 where the ground shows.
    """

    cells: np.ndarray
    grounds: dict[Look, range]
    things: dict[Look, np.ndarray]

    def numbers(self, scene: Scene) -> np.ndarray:
        """Cell numbers of a scene's picture, int64 [GRID, GRID]."""
        variants = self.grounds[Look.of(scene)]
        numbers = variants.start + scene.variants % len(variants)
        for thing in scene.things:
            row, col = (SLOT_OFFSETS[i] for i in divmod(thing.slot, 3))
            box, own = numbers[row : row + BOX, col : col + BOX], self.things[Look.of(scene, thing)]
            box[own >= 0] = own[own >= 0]
        return numbers


@lru_cache(maxsize=2)
def atlas(size: int) -> Atlas:
    """Draw all cells of pictures of this size; equal ones share a number."""
    edge = size // GRID
    numbered: dict[bytes, int] = {}
    cells: list[np.ndarray] = []
    grounds: dict[Look, range] = {}
    things: dict[Look, np.ndarray] = {}
    for look in _looks(None):
        drawn = ground(look.background or BACKGROUNDS[0], look.style, size)
        grounds[look] = range(len(cells), len(cells) + len(drawn))
        cells += [*drawn]
    for look in _looks(*SHAPES):
        names = look.color or ALL_COLORS[0], look.background or BACKGROUNDS[0]
        patch, marked = (
            sprite(look.shape, *names, look.style, size),
            covered(look.shape, look.style),
        )
        things[look] = np.full((BOX, BOX), -1)
        for at in zip(*np.nonzero(marked), strict=True):
            number = numbered.setdefault(patch[at].tobytes(), len(cells))
            cells += [patch[at]] if number == len(cells) else []
            things[look][at] = number
    return Atlas(np.stack(cells).reshape(-1, edge, edge, 3), grounds, things)


def _looks(*shapes: str | None) -> Iterator[Look]:
    """All looks of these shapes, None for the ground."""
    for style, shape in product(STYLES, shapes):
        if style != "plain":
            yield Look(style, None, shape)
            continue
        for background, color in product(BACKGROUNDS, ALL_COLORS if shape else (None,)):
            yield Look(style, background, shape, color)
