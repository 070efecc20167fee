"""Did an edit succeed? The strict criterion of ToyWorld, as a pure function of pixels.

An edit succeeds when the picture shows the target scene and nothing else:

1. In each of the nine slots the nearest of everything the world can draw (56 objects on 8
   backgrounds, 7 shapes in 3 whole-picture styles, and the empty slot of each; smallest mean
   squared error) holds the target's object, in the target's style, or is the target's background
   where the slot ought to be empty. So every changed object has the right place, shape and colour,
   every bystander is still there and the same, and no object was invented.
2. Between the slots the nearest of all backgrounds and styles is the target's.
3. Every token cell (1/16 of a side) agrees with the target: its root mean square error is at
   most OBJECT_CELL_ERROR where the target has a part of an object, else GROUND_CELL_ERROR. So no
   object is deformed, smeared or holed, and the background is right everywhere.

Nothing is averaged over the picture: one wrong cell is a failure. Both bounds are half as much
again as the most the shipped tokenizer loses in any cell of 200 targets (0.053 and 0.036). Two
backgrounds differ by more in every cell; of the cells in which two objects, or one and none, differ
at all, nine in ten differ by more.
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
"""Largest root mean square error (0..1) of a token cell with a part of an object."""
GROUND_CELL_ERROR = 0.055
"""Largest root mean square error (0..1) of any other token cell."""
_TIE = 1e-4  # of squared errors: rounding is below it, different looks differ by ten times more


@dataclass(frozen=True)
class Fault:
    """One reason of a failure.

    kind: "edited" (an object the edit was about), "bystander" (one it was not about), "invented"
    (an object in a slot that ought to be empty) or "ground" (background or style).
    place: name of the slot, or "between the slots"; text: what is wrong there.
    """

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """All faults of a picture; none means success."""

    faults: tuple[Fault, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def reason(self) -> str:
        """All faults in one line; empty on success."""
        return "; ".join(map(str, self.faults))


def edit_succeeded(picture: Any, pair: EditPair) -> bool:
    """Whether `picture` shows the target of `pair`; see the module for the criterion.

    picture: float [H, W, 3] in 0..1, numpy or tensor, square, of a size ToyWorld can draw.
    Raises InputError for any other picture.
    """
    return judge(picture, pair).succeeded


def judge(picture: Any, pair: EditPair) -> Verdict:
    """The verdict on a picture with every fault named; arguments as `edit_succeeded`."""
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
    """Token cells that disagree with the target, bool [GRID, GRID]."""
    size = pixels.shape[0]
    wanted = render(target, size)
    ground = ground_picture(target.background, target.style, size)
    squared = (pixels - wanted.astype(np.float32) / 255) ** 2
    split = (GRID, size // GRID, GRID, size // GRID, 3)
    holds_object = (wanted != ground).reshape(split).any((1, 3, 4))
    bounds = np.where(holds_object, OBJECT_CELL_ERROR, GROUND_CELL_ERROR)
    return squared.reshape(split).mean((1, 3, 4)) > bounds**2


def _slot_faults(pixels: np.ndarray, bad: np.ndarray, pair: EditPair) -> Iterator[Fault]:
    size = pixels.shape[0]
    templates = _slot_templates(size)
    looks = templates.looks
    boxes = [slot_box(slot, size) for slot in range(len(SLOT_NAMES))]
    patches = np.stack([pixels[y0:y1, x0:x1].ravel() for y0, y1, x0, x1 in boxes])
    errors = templates.errors(patches)
    before, after = (_things(scene) for scene in (pair.source, pair.target))
    for slot, place in enumerate(SLOT_NAMES):
        wanted = _look(pair.target, after[slot])
        # All that draws nearly the nearest pixels: an empty slot may look alike on two grounds.
        nearest = np.flatnonzero(errors[slot] <= errors[slot].min() + _TIE)
        shown = any(_same(looks[k], wanted) for k in nearest)
        y0, y1, x0, x1 = (edge * GRID // size for edge in boxes[slot])
        wrong = int(bad[y0:y1, x0:x1].sum())
        if not shown or wrong:
            nearest_look = looks[nearest[0]]
            found = _count(wrong) if shown else f"found {_say(nearest_look)}"
            kind = "edited" if before[slot] != after[slot] else "bystander"
            if not before[slot] and not after[slot]:
                kind = "invented" if nearest_look.shape else "ground"
            yield Fault(kind, place, f"{_say(wanted)} expected, {found}")


def _ground_faults(pixels: np.ndarray, bad: np.ndarray, target: Scene) -> Iterator[Fault]:
    size = pixels.shape[0]
    templates = _ground_templates(size)
    looks = templates.looks
    between = pixels[_between_slots(size)].reshape(1, -1)
    errors = templates.errors(between)[0]
    wanted, nearest = _look(target, None), looks[int(errors.argmin())]
    shown = errors[looks.index(wanted)] <= errors.min() + _TIE
    wrong = int((bad & _between_slots(GRID)).sum())
    if not shown or wrong:
        found = _count(wrong) if shown else f"found {_say(nearest)}"
        yield Fault("ground", "between the slots", f"{_say(wanted)} expected, {found}")


@dataclass(frozen=True)
class _Look:
    """What can be seen at a place: an object or none, on a background or in a style."""

    shape: str | None
    color: str | None
    background: str | None
    style: str


@dataclass(frozen=True, eq=False)
class _Templates:
    """Looks, their pixels float32 [K, n] in 0..1, and the sum of squares of each [K]."""

    looks: list[_Look]
    pixels: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, looks: list[_Look], pictures: list[np.ndarray]) -> "_Templates":
        """From uint8 pictures, flattened."""
        pixels = np.stack([picture.ravel() for picture in pictures]).astype(np.float32) / 255
        return cls(looks, pixels, (pixels**2).sum(1, dtype=np.float64))

    def errors(self, patches: np.ndarray) -> np.ndarray:
        """Mean squared error of every patch [P, n] from every template: [P, K]."""
        squares = (patches**2).sum(1, dtype=np.float64)[:, None] + self.squares
        return (squares - 2 * (patches @ self.pixels.T)) / patches.shape[1]


def _look(scene: Scene, name: tuple[str, str] | None) -> _Look:
    """How an object (shape, colour) looks in a scene; a style hides colour and background."""
    shape, color = name or (None, None)
    if scene.style != "plain":
        return _Look(shape, None, None, scene.style)
    return _Look(shape, color, scene.background, "plain")


def _things(scene: Scene) -> dict[int, tuple[str, str] | None]:
    """Shape and colour in each slot, None where it is empty."""
    things = {thing.slot: (thing.shape, thing.color) for thing in scene.things}
    return {slot: things.get(slot) for slot in range(len(SLOT_NAMES))}


def _same(found: _Look, wanted: _Look) -> bool:
    """Whether both show the same object in the same style, or the same empty ground.

    Behind an object the background has its own test: a large one leaves too little of it to tell.
    """
    if wanted.shape is None:
        return found == wanted
    return replace(found, background=None) == replace(wanted, background=None)


def _count(wrong: int) -> str:
    return f"{wrong} wrong cell{'s' if wrong > 1 else ''}"


def _say(look: _Look) -> str:
    ground = look.background or look.style
    thing = " ".join(filter(None, (look.color, look.shape))) or "nothing"
    return f"{thing} on {ground}"


def _looks(names: list[tuple[str, str] | None]) -> list[_Look]:
    """Every different look of these objects."""
    scenes = [Scene((), ground) for ground in BACKGROUNDS]
    scenes += [Scene((), BACKGROUNDS[0], style) for style in STYLES if style != "plain"]
    return list(dict.fromkeys(_look(scene, name) for scene in scenes for name in names))


@lru_cache(maxsize=4)
def _slot_templates(size: int) -> _Templates:
    """All looks of a slot."""
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
    """All backgrounds and styles between the slots."""
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
