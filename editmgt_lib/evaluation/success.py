"""Did an edit succeed? The strict criterion of ToyWorld, as a pure function of pixels.

An edit succeeds if the picture shows the target scene and nothing else:

1. In each of the nine slots, the nearest of everything the world can draw (56 objects on 8
   backgrounds, 7 shapes in 3 whole-picture styles, and the empty slot of each; by mean squared
   error) shows the target's object in the target's style, or the target's background if the slot
   should be empty. So every changed object has the right position, shape and colour, every
   bystander is unchanged, and no object was invented.
2. Between the slots, the nearest of all backgrounds and styles is the target's.
3. Every token cell (1/16 of a side) agrees with the target: its root mean square error is at
   most OBJECT_CELL_ERROR if the target has part of an object there, else GROUND_CELL_ERROR. So no
   object is deformed, smeared or incomplete, and the background is right everywhere.

Nothing is averaged over the picture: one wrong cell is a failure. Both bounds are 1.5 times the
largest error of the shipped tokenizer in any cell of 200 targets (0.053 and 0.036). Any two
backgrounds differ by more in every cell; of the cells in which two objects, or an object and none,
differ at all, nine in ten differ by more.

Decoded pixels differ by about 1e-6 between processors, so a verdict may differ only where a cell or
a slot is that close to a bound. Which of several nearly equal looks is named does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError
from ..toyworld.drawing import GRID, check_size, ground_picture, sprite
from ..toyworld.world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SLOT_NAMES,
    STYLES,
    EditPair,
    Scene,
    render,
    slot_box,
)

OBJECT_CELL_ERROR = 0.08
"""Largest root mean square error (0..1) of a token cell with part of an object."""
GROUND_CELL_ERROR = 0.055
"""Largest root mean square error (0..1) of any other token cell."""
_TIE = 1e-4  # of squared errors: rounding is below it, different looks differ by ten times more


@dataclass(frozen=True)
class Fault:
    """One reason for a failure.

    kind: "edited" (an object the edit was about), "bystander" (one it was not about), "invented"
    (an object in a slot that should be empty) or "ground" (background or style).
    region: name of the slot, or "between the slots"; text: what is wrong there.
    """

    kind: str
    region: str
    text: str

    def __str__(self) -> str:
        return f"{self.region}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """All faults of a picture; success if there are none."""

    faults: tuple[Fault, ...] = ()

    @property
    def succeeded(self) -> bool:
        return not self.faults


def judge(picture: Any, pair: EditPair) -> Verdict:
    """Decide whether `picture` shows the target of `pair`, naming every fault.

    picture: float [H, W, 3] in 0..1, numpy or tensor, square, of a size ToyWorld can draw.
    Raises InputError for any other picture.
    """
    pixels = _checked(picture)
    bad = _bad_cells(pixels, pair.target)
    faults = [*_ground_faults(pixels, bad, pair.target), *_slot_faults(pixels, bad, pair)]
    return Verdict(tuple(faults))


def _checked(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture, dtype=np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"picture has shape {pixels.shape}; give a square one, [size, size, 3]")
    check_size(pixels.shape[0])
    if not np.isfinite(pixels).all():
        raise InputError("picture holds NaN or infinity; give values in 0..1")
    return pixels


def _bad_cells(pixels: np.ndarray, target: Scene) -> np.ndarray:
    """Mark the token cells that disagree with the target, bool [GRID, GRID]."""
    size = pixels.shape[0]
    expected = render(target, size)
    ground = ground_picture(target.background, target.style, size)
    squared = (pixels - expected.astype(np.float32) / 255) ** 2
    split = (GRID, size // GRID, GRID, size // GRID, 3)
    holds_object = (expected != ground).reshape(split).any((1, 3, 4))
    bounds = np.where(holds_object, OBJECT_CELL_ERROR, GROUND_CELL_ERROR)
    return squared.reshape(split).mean((1, 3, 4)) > bounds**2


def _slot_faults(pixels: np.ndarray, bad: np.ndarray, pair: EditPair) -> Iterator[Fault]:
    size = pixels.shape[0]
    boxes = [slot_box(slot, size) for slot in range(len(SLOT_NAMES))]
    patches = np.stack([pixels[y0:y1, x0:x1].ravel() for y0, y1, x0, x1 in boxes])
    nearest = _slot_templates(size).nearest(patches)
    before, after = (_things(scene) for scene in (pair.source, pair.target))
    for slot, region in enumerate(SLOT_NAMES):
        expected = _look(pair.target, after[slot])
        y0, y1, x0, x1 = (edge * GRID // size for edge in boxes[slot])
        cells = int(bad[y0:y1, x0:x1].sum())
        shown = any(_same(look, expected) for look in nearest[slot])
        if not shown or cells:
            kind = "edited" if before[slot] != after[slot] else "bystander"
            if not before[slot] and not after[slot]:
                kind = "invented" if nearest[slot][0].shape else "ground"
            yield _fault(kind, region, expected, None if shown else nearest[slot][0], cells)


def _ground_faults(pixels: np.ndarray, bad: np.ndarray, target: Scene) -> Iterator[Fault]:
    size = pixels.shape[0]
    [nearest] = _ground_templates(size).nearest(pixels[_between_slots(size)].reshape(1, -1))
    expected = _look(target, None)
    cells = int((bad & _between_slots(GRID)).sum())
    shown = expected in nearest
    if not shown or cells:
        yield _fault("ground", "between the slots", expected, None if shown else nearest[0], cells)


def _fault(kind: str, region: str, expected: "_Look", shown: "_Look | None", cells: int) -> Fault:
    """Describe a fault: what is shown instead (None: the right thing), or how many cells differ."""
    wrong = f"{cells} wrong cell{'s' if cells > 1 else ''}" if shown is None else f"found {shown}"
    return Fault(kind, region, f"{expected} expected, {wrong}")


@dataclass(frozen=True)
class _Look:
    """What a region shows: an object or none, on a background or in a style."""

    shape: str | None
    color: str | None
    background: str | None
    style: str

    def __str__(self) -> str:
        thing = " ".join(filter(None, (self.color, self.shape))) or "nothing"
        return f"{thing} on {self.background or self.style}"


@dataclass(frozen=True, eq=False)
class _Templates:
    """K looks, their pixels float32 [K, n] in 0..1, and the sum of squares of each [K]."""

    looks: list[_Look]
    pixels: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, looks: list[_Look], pictures: list[np.ndarray]) -> "_Templates":
        """Build from uint8 pictures."""
        pixels = np.stack([picture.ravel() for picture in pictures]).astype(np.float32) / 255
        return cls(looks, pixels, (pixels**2).sum(1, dtype=np.float64))

    def errors(self, patches: np.ndarray) -> np.ndarray:
        """Mean squared error of every patch [P, n] against every template: [P, K]."""
        squares = (patches**2).sum(1, dtype=np.float64)[:, None] + self.squares
        return (squares - 2 * (patches @ self.pixels.T)) / patches.shape[1]

    def nearest(self, patches: np.ndarray) -> list[list[_Look]]:
        """The looks that match each patch [P, n] best; several if they match about equally.

        An empty slot, for one, may look alike on two backgrounds.
        """
        errors = self.errors(patches)
        close = errors <= errors.min(1, keepdims=True) + _TIE
        return [[self.looks[k] for k in np.flatnonzero(row)] for row in close]


def _look(scene: Scene, name: tuple[str, str] | None) -> _Look:
    """Look of an object (shape, colour) in a scene; a style hides colour and background."""
    shape, color = name or (None, None)
    if scene.style != "plain":
        return _Look(shape, None, None, scene.style)
    return _Look(shape, color, scene.background, "plain")


def _things(scene: Scene) -> dict[int, tuple[str, str] | None]:
    """Shape and colour in each slot, None where it is empty."""
    things = {thing.slot: (thing.shape, thing.color) for thing in scene.things}
    return {slot: things.get(slot) for slot in range(len(SLOT_NAMES))}


def _same(shown: _Look, expected: _Look) -> bool:
    """Whether both show the same object in the same style, or the same empty ground.

    The background behind an object is tested by cell: a large object leaves too little of it here.
    """
    if expected.shape is None:
        return shown == expected
    return replace(shown, background=None) == replace(expected, background=None)


def _looks(names: list[tuple[str, str] | None]) -> list[_Look]:
    """All distinct looks of these objects."""
    scenes = [Scene((), ground) for ground in BACKGROUNDS]
    scenes += [Scene((), BACKGROUNDS[0], style) for style in STYLES if style != "plain"]
    return list(dict.fromkeys(_look(scene, name) for scene in scenes for name in names))


@lru_cache(maxsize=4)
def _slot_templates(size: int) -> _Templates:
    """Templates of a slot."""
    looks = _looks([None, *((shape, color) for shape in SHAPES for color in COLORS)])
    box = slot_box(0, size)[1]
    patches = []
    for look in looks:
        ground = look.background or BACKGROUNDS[0]
        if look.shape is None:
            patch = ground_picture(ground, look.style, size)[:box, :box]
        else:
            patch = sprite(look.shape, look.color or COLORS[0], ground, look.style, size)
        patches.append(patch)
    return _Templates.of(looks, patches)


@lru_cache(maxsize=4)
def _ground_templates(size: int) -> _Templates:
    """Templates of the area between the slots."""
    looks, between = _looks([None]), _between_slots(size)
    pictures = [
        ground_picture(look.background or BACKGROUNDS[0], look.style, size) for look in looks
    ]
    return _Templates.of(looks, [picture[between] for picture in pictures])


@lru_cache(maxsize=8)
def _between_slots(side: int) -> np.ndarray:
    """bool [side, side], True outside every slot; side in pixels, or GRID for token cells."""
    between = np.ones((GRID, GRID), bool)
    for slot in range(len(SLOT_NAMES)):
        y0, y1, x0, x1 = slot_box(slot, 4 * GRID)
        between[y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = False
    return np.kron(between, np.ones((side // GRID, side // GRID), bool))
