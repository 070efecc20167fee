"""Did an edit succeed? The strict criterion of ToyWorld, as a pure function of pixels.

An edit succeeds if the picture shows the target scene and nothing else:

1. In each of the nine slots, the nearest of everything the world can draw (96 objects on 6
   backgrounds, 12 shapes in 3 whole-picture styles, and the empty slot of each; by mean squared
   error) shows the target's object in the target's style, or the target's background if the slot
   should be empty. So every changed object has the right position, shape and colour, every
   bystander is unchanged, and no object was invented.
2. Between the slots, the nearest of all backgrounds and styles is the target's.
3. Every token cell (1/16 of a side) agrees with the target: its root mean square error is at
   most OBJECT_CELL_ERROR if the target has part of an object there, else GROUND_CELL_ERROR. So no
   object is deformed, smeared or incomplete, and the background is right everywhere.

A cell of a background may show any of its variants, since no instruction says which: how well an
edit keeps the source's is a separate figure (`metrics.outside_error`).

Nothing is averaged over the picture: one wrong cell is a failure. Both bounds lie above the largest
error of the shipped tokenizer in any cell of 200 targets (0.059 and 0.066). Any two backgrounds
differ by more in every cell, and so do nine in ten of the cells in which two objects, or an object
and none, differ at all.

Decoded pixels differ by about 1e-6 between processors, so a verdict may differ only where a cell or
a slot is that close to a bound. Which of several nearly equal looks is named does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError, counted
from .atlas import Look, atlas
from .drawing import BOX, GRID, SLOT_OFFSETS, cells_of, check_size
from .world import BACKGROUNDS, COLORS, SLOT_NAMES, EditPair, Scene, Thing

OBJECT_CELL_ERROR = 0.08
"""Largest root mean square error (0..1) of a token cell with part of an object."""
GROUND_CELL_ERROR = 0.066
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
    sight = _Sight.of(pixels)
    bad = sight.wrong_cells(pair.target)
    return Verdict((*_ground_faults(sight, bad, pair.target), *_slot_faults(sight, bad, pair)))


def nearest_scene(picture: Any) -> Scene:
    """The scene a picture resembles most; judge it to know how well.

    picture: as of `judge`. The variants of the ground are not read: texture is 0.
    """
    sight = _Sight.of(_checked(picture))
    grounds = sight.ground_between()  # a sketch and a silhouette are on the same paper
    shown = [sight.in_slot(slot)[0] for slot in range(len(SLOT_NAMES))]
    behind = [look.ground for look in shown if look.shape and look.ground in grounds]
    ground = (behind or grounds)[0]
    things = (
        Thing(look.shape, look.color or COLORS[0], slot)
        for slot, look in enumerate(shown)
        if look.shape
    )
    return Scene(tuple(things), ground.background or BACKGROUNDS[0], ground.style)


def _checked(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture, dtype=np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"picture has shape {pixels.shape}; give a square one, [size, size, 3]")
    check_size(pixels.shape[0])
    if not np.isfinite(pixels).all():
        raise InputError("picture holds NaN or infinity; give values in 0..1")
    return pixels


@dataclass(frozen=True, eq=False)
class _Sight:
    """What each cell of a picture looks like, as mean squared errors.

    grounds: against the nearest variant of each ground, [GRID, GRID] each. things: of each slot,
    against every object and the ground beside it, [slots, objects, BOX, BOX].
    """

    world: "_World"
    grounds: dict[Look, np.ndarray]
    things: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> "_Sight":
        world = _world(pixels.shape[0])
        cells = cells_of(pixels, pixels.shape[0] // GRID).reshape(GRID, GRID, -1)
        grounds = {look: known.errors(cells).min(-1) for look, known in world.grounds.items()}
        boxes = [_box(slot) for slot in range(len(SLOT_NAMES))]
        slots = np.stack([cells[box].reshape(BOX * BOX, -1) for box in boxes], 1)
        things = world.things.errors(slots).transpose(1, 2, 0)  # [slots, objects, BOX * BOX]
        for look, error in grounds.items():  # beside the object
            beside = np.stack([error[box].ravel() for box in boxes])[:, None]
            of = world.beside[look]
            things[:, of] = np.where(world.own[of], things[:, of], beside)
        return cls(world, grounds, things.reshape(*things.shape[:2], BOX, BOX))

    def wrong_cells(self, target: Scene) -> np.ndarray:
        """Mark the cells that disagree with the target, bool [GRID, GRID]."""
        bad = self.grounds[Look.of(target)] > GROUND_CELL_ERROR**2
        for thing in target.things:
            number = self.world.looks.index(Look.of(target, thing))
            wrong = self.things[thing.slot, number] > OBJECT_CELL_ERROR**2
            own = self.world.own[number].reshape(BOX, BOX)
            bad[_box(thing.slot)][own] = wrong[own]
        return bad

    def ground_between(self) -> list[Look]:
        """The grounds that match best between the slots; several if about equally."""
        errors = {look: error[_between_slots()].mean() for look, error in self.grounds.items()}
        return _nearest(errors)

    def in_slot(self, slot: int) -> list[Look]:
        """The looks that match a slot best; several if about equally.

        An empty slot, for one, may look alike on two backgrounds.
        """
        errors = {look: error[_box(slot)].mean() for look, error in self.grounds.items()}
        things = self.things[slot].mean((-2, -1))
        return _nearest(errors | dict(zip(self.world.looks, things, strict=True)))


def _nearest(errors: dict[Look, float]) -> list[Look]:
    least = min(errors.values())
    return [look for look in errors if errors[look] <= least + _TIE]


def _slot_faults(sight: _Sight, bad: np.ndarray, pair: EditPair) -> Iterator[Fault]:
    before, after = (_things(scene) for scene in (pair.source, pair.target))
    for slot, region in enumerate(SLOT_NAMES):
        expected = Look.of(pair.target, after.get(slot))
        nearest, cells = sight.in_slot(slot), int(bad[_box(slot)].sum())
        shown = any(_same(look, expected) for look in nearest)
        if not shown or cells:
            kind = "edited" if before.get(slot) != after.get(slot) else "bystander"
            if slot not in before and slot not in after:
                kind = "invented" if nearest[0].shape else "ground"
            yield _fault(kind, region, expected, None if shown else nearest[0], cells)


def _ground_faults(sight: _Sight, bad: np.ndarray, target: Scene) -> Iterator[Fault]:
    nearest, expected = sight.ground_between(), Look.of(target)
    cells = int((bad & _between_slots()).sum())
    shown = expected in nearest
    if not shown or cells:
        yield _fault("ground", "between the slots", expected, None if shown else nearest[0], cells)


def _fault(kind: str, region: str, expected: Look, shown: Look | None, cells: int) -> Fault:
    """Describe a fault: what is shown instead (None: the right thing), or how many cells differ."""
    wrong = counted(cells, "wrong cell") if shown is None else f"found {shown}"
    return Fault(kind, region, f"{expected} expected, {wrong}")


def _things(scene: Scene) -> dict[int, Thing]:
    return {thing.slot: thing for thing in scene.things}


def _same(shown: Look, expected: Look) -> bool:
    """Whether both show the same object in the same style, or the same empty ground.

    The background behind an object is tested by cell: a large object leaves too little of it here.
    """
    if expected.shape is None:
        return shown == expected
    return replace(shown, background=None) == replace(expected, background=None)


def _box(slot: int) -> tuple[slice, slice]:
    """Cells of a slot."""
    row, col = (SLOT_OFFSETS[i] for i in divmod(slot, 3))
    return slice(row, row + BOX), slice(col, col + BOX)


@dataclass(frozen=True, eq=False)
class _Known:
    """Pixels float32 [..., K, n] in 0..1, and the sum of squares of each."""

    pixels: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> "_Known":
        return cls(pixels, (pixels**2).sum(-1, dtype=np.float64))

    def errors(self, patches: np.ndarray) -> np.ndarray:
        """Mean squared error of patches [..., P, n]: [..., P, K]."""
        own = (patches**2).sum(-1, dtype=np.float64)[..., :, None]
        products = patches @ self.pixels.swapaxes(-1, -2)
        return (own + self.squares[..., None, :] - 2 * products) / patches.shape[-1]


@dataclass(frozen=True, eq=False)
class _World:
    """Everything that can be seen in a cell or a slot.

    grounds: the variants of each. looks: all K objects; beside: numbers of those on each ground;
    own: which cells belong to each, bool [K, BOX * BOX]; things: the pixels of these,
    [BOX * BOX, K, n].
    """

    grounds: dict[Look, _Known]
    looks: list[Look]
    beside: dict[Look, list[int]]
    own: np.ndarray
    things: _Known


@lru_cache(maxsize=2)
def _world(size: int) -> _World:
    world = atlas(size)
    cells = world.cells.reshape(len(world.cells), -1).astype(np.float32) / 255
    numbers = np.stack([own.ravel() for own in world.things.values()])
    grounds = {look: _Known.of(cells[list(found)]) for look, found in world.grounds.items()}
    looks = [*world.things]
    beside = {ground: [k for k, look in enumerate(looks) if look.ground == ground]
              for ground in grounds}  # fmt: skip
    return _World(grounds, looks, beside, numbers >= 0, _Known.of(cells[numbers.T]))


@lru_cache(maxsize=1)
def _between_slots() -> np.ndarray:
    """Mark the cells outside every slot, bool [GRID, GRID]."""
    between = np.ones((GRID, GRID), bool)
    for slot in range(len(SLOT_NAMES)):
        between[_box(slot)] = False
    return between
