"""ToyWorld's pictures on a 16 x 16 token grid: objects in slots, on a ground of small variants.

Each ground is a few cells of one token, and an object starts on a token border and lies on the
first of them. So it has the same pixels in every slot, and a small codebook holds the whole world.
"""

from functools import lru_cache

import numpy as np

from ..errors import InputError
from .grounds import ground_cells
from .language import SHAPES
from .objects import RGB
from .shading import drawn, solid

GRID = 16
"""Tokens per side of a picture."""
BOX = 4
"""Tokens per side of a slot."""
SLOT_OFFSETS = (0, 6, 12)
"""First token of the three slot rows and columns."""

FILL: dict[str, RGB] = {
    "red": (217, 34, 44),
    "orange": (250, 138, 18),
    "yellow": (253, 224, 56),
    "green": (38, 160, 74),
    "blue": (36, 98, 224),
    "purple": (138, 56, 182),
    "pink": (250, 130, 196),
    "black": (42, 42, 50),
}
# Paper, faint grid line, ink and whether the objects are filled with the ink.
STYLE: dict[str, tuple[RGB, RGB, RGB, bool]] = {
    "sketch": ((250, 250, 248), (250, 250, 248), (40, 40, 44), False),
    "blueprint": ((26, 66, 140), (42, 86, 164), (238, 246, 255), False),
    "silhouette": ((250, 250, 248), (250, 250, 248), (16, 16, 18), True),
}
_FAINT = 0.04  # share of ground that an object may hide in a cell which is left as it is
_UP = 1e-6  # levels: halves round up, whatever their last bit is


def check_size(size: int) -> None:
    """Raise InputError unless size is a multiple of 16 in 64..2048 pixels."""
    if not isinstance(size, (int, np.integer)) or size % GRID or not 64 <= size <= 2048:
        raise InputError(f"size is {size!r}; give a multiple of {GRID} from 64 to 2048 pixels")


def slot_box(slot: int, size: int) -> tuple[int, int, int, int]:
    """Pixel box (y0, y1, x0, x1), ends exclusive, of a slot 0..8 in reading order.

    Raises InputError for an unknown slot or size.
    """
    check_size(size)
    if slot not in range(9):
        raise InputError(f"slot is {slot!r}; give a whole number from 0 to 8")
    edge = size // GRID
    y, x = (edge * SLOT_OFFSETS[i] for i in divmod(slot, 3))
    return y, y + BOX * edge, x, x + BOX * edge


def cells_of(picture: np.ndarray, edge: int) -> np.ndarray:
    """Cut a picture [h, w, 3] into square cells [h / edge, w / edge, edge, edge, 3]."""
    rows, cols = (side // edge for side in picture.shape[:2])
    return picture.reshape(rows, edge, cols, edge, -1).swapaxes(1, 2)


def picture_of(cells: np.ndarray) -> np.ndarray:
    """Join cells [rows, cols, edge, edge, 3] to a picture."""
    rows, cols, edge = cells.shape[:3]
    return cells.swapaxes(1, 2).reshape(rows * edge, cols * edge, -1)


@lru_cache(maxsize=64)
def ground(background: str, style: str, size: int) -> np.ndarray:
    """Draw the variants of an empty cell: uint8 [n, edge, edge, 3], read-only.

    A style overrides the background and has one variant.
    """
    return _bytes(_ground(background, style, size))


@lru_cache(maxsize=1024)
def sprite(shape: str, color: str, background: str, style: str, size: int) -> np.ndarray:
    """Draw an object on the first variant of its ground: uint8 cells [BOX, BOX, edge, edge, 3].

    Read-only. Only the cells of `covered` belong to the object.
    """
    under = np.tile(_ground(background, style, size)[0], (BOX, BOX, 1))
    if style == "plain":
        painted = solid(shape, len(under)).over(under, FILL[color])
    else:
        _, _, ink, filled = STYLE[style]
        share = drawn(shape, len(under), filled)
        painted = under * (1 - share) + np.array(ink, float) * share
    return _bytes(cells_of(painted, size // GRID))


@lru_cache(maxsize=64)
def covered(shape: str, style: str) -> np.ndarray:
    """Mark the cells that an object or its shadow covers: bool [BOX, BOX], read-only."""
    edge = 16  # the same cells at every size
    if style == "plain":
        share = 1 - solid(shape, BOX * edge).under
    else:
        share = drawn(shape, BOX * edge, STYLE[style][3])
    marked = (cells_of(share, edge) > _FAINT).any((2, 3, 4))
    marked.flags.writeable = False
    return marked


def thing_mask(shape: str, size: int) -> np.ndarray:
    """Antialiased coverage of an object, shadow excluded: float64 [box, box], box = size / 4.

    Read-only, shared between calls. Raises InputError for an unknown shape or size.
    """
    check_size(size)
    if shape not in SHAPES:
        raise InputError(f"shape is {shape!r}; give one of {', '.join(SHAPES)}")
    return drawn(shape, BOX * int(size) // GRID, True)[..., 0]


def _ground(background: str, style: str, size: int) -> np.ndarray:
    edge = size // GRID
    if style == "plain":
        return ground_cells(background, edge)
    paper, rule = (np.array(tone, float) for tone in STYLE[style][:2])
    cell = np.tile(paper, (1, edge, edge, 1))
    cell[:, 0, :] = cell[:, :, 0] = rule  # one line per token
    return cell


def _bytes(levels: np.ndarray) -> np.ndarray:
    pixels = np.clip(np.floor(levels + (0.5 + _UP)), 0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels
