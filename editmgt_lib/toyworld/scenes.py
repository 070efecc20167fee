"""ToyWorld's objects, scenes and edit pairs, and their pictures."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .drawing import BOX, GRID, SLOT_OFFSETS, check_size, covered, ground, picture_of, sprite
from .grounds import VARIANT_OF
from .language import ALL_COLORS, BACKGROUNDS, CATEGORIES, SHAPES, SLOT_NAMES, STYLES
from .noise import keyed

HELDOUT_MODULUS = 16
"""One scene in this many belongs to the held-out split."""
TEXTURES = 1 << 32
"""Number of keys for the noise of a ground."""


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; give one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Thing:
    """An object: shape, colour and slot 0..8 in reading order."""

    shape: str
    color: str
    slot: int

    def __post_init__(self) -> None:
        _check("shape", self.shape, SHAPES)
        _check("color", self.color, ALL_COLORS)
        if self.slot not in range(len(SLOT_NAMES)):
            raise InputError(f"slot is {self.slot!r}; give a whole number from 0 to 8")

    @property
    def name(self) -> str:
        """Colour and shape: "red heart"."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Objects in distinct slots, sorted by slot, on a background, in a whole-picture style.

    In a style other than "plain" neither colours nor background are visible.

    Attributes:
        texture: key, 0..TEXTURES - 1, of the noise that chooses the variant of each ground cell.
    """

    things: tuple[Thing, ...]
    background: str
    style: str = "plain"
    texture: int = 0

    def __post_init__(self) -> None:
        _check("background", self.background, BACKGROUNDS)
        _check("style", self.style, STYLES)
        slots = [thing.slot for thing in self.things]
        if slots != sorted(set(slots)):
            raise InputError(f"slots of things are {slots}; give distinct slots in rising order")
        if not 0 <= self.texture < TEXTURES:
            raise InputError(f"texture is {self.texture!r}; give a whole number below {TEXTURES}")

    @property
    def free_slots(self) -> tuple[int, ...]:
        """Slots without an object."""
        taken = {thing.slot for thing in self.things}
        return tuple(slot for slot in range(len(SLOT_NAMES)) if slot not in taken)

    @property
    def variants(self) -> np.ndarray:
        """Variant of the ground in each cell, int64 [GRID, GRID]."""
        noise = keyed(*np.ogrid[:GRID, :GRID], self.texture)
        return VARIANT_OF[(noise * len(VARIANT_OF)).astype(np.int64)]


@dataclass(frozen=True)
class EditPair:
    """An edit: instruction, and the scenes before and after.

    words: parts of the instruction, verbatim, that say where to act.
    """

    category: str
    instruction: str
    words: tuple[str, ...]
    source: Scene
    target: Scene

    def __post_init__(self) -> None:
        _check("category", self.category, CATEGORIES)
        for word in self.words:
            if word not in self.instruction:
                raise InputError(f"words holds {word!r}, which is not in {self.instruction!r}")


def is_heldout(scene: Scene) -> bool:
    """Whether a scene belongs to the held-out split, by a hash that is the same everywhere.

    The texture does not count: the same objects on the same ground are on the same side.
    """
    things = ";".join(f"{thing.slot}:{thing.color}:{thing.shape}" for thing in scene.things)
    text = f"{scene.style}|{scene.background}|{things}"
    return zlib.crc32(text.encode("ascii")) % HELDOUT_MODULUS == 0


def render(scene: Scene, size: int = 256) -> np.ndarray:
    """Draw a scene: uint8 [size, size, 3].

    Deterministic, bit for bit. size: a multiple of 16 from 64 to 2048, else InputError.
    """
    check_size(size)
    size = int(size)  # one cache entry for numpy and plain integers
    drawn = ground(scene.background, scene.style, size)
    cells = drawn[scene.variants % len(drawn)]
    for thing in scene.things:
        row, col = (SLOT_OFFSETS[i] for i in divmod(thing.slot, 3))
        box, own = cells[row : row + BOX, col : col + BOX], covered(thing.shape, scene.style)
        box[own] = sprite(thing.shape, thing.color, scene.background, scene.style, size)[own]
    return picture_of(cells)


def change_mask(pair: EditPair, size: int = 256) -> np.ndarray:
    """Pixels in which the two pictures of a pair differ: bool [size, size]."""
    return (render(pair.source, size) != render(pair.target, size)).any(-1)
