"""Drawing of shapes, colours and backgrounds on a 16 x 16 token grid.

Patterns repeat after one token and objects start on one, so that an object on a background has the
same pixels in every slot and a small codebook holds the whole world.
"""

from functools import lru_cache

import numpy as np

from ..errors import InputError
from .language import SHAPES

GRID = 16
"""Tokens per side of a picture."""
BOX = 4
"""Tokens per side of a slot."""
SLOT_OFFSETS = (0, 6, 12)
"""First token of the three slot rows and columns."""

RGB = tuple[int, int, int]
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
# First and second tone; the second is the stripe, the dark check or the dot.
GROUND: dict[str, tuple[RGB, RGB]] = {
    "white": ((250, 250, 248), (250, 250, 248)),
    "gray": ((203, 206, 212), (203, 206, 212)),
    "sky": ((178, 217, 248), (178, 217, 248)),
    "beige": ((240, 224, 190), (240, 224, 190)),
    "mint": ((192, 238, 206), (192, 238, 206)),
    "striped": ((238, 230, 251), (212, 197, 240)),
    "checkered": ((254, 240, 230), (249, 214, 200)),
    "dotted": ((244, 248, 252), (150, 194, 226)),
}
# Paper, faint grid line, ink and whether the shapes are filled with the ink.
STYLE: dict[str, tuple[RGB, RGB, RGB, bool]] = {
    "sketch": ((250, 250, 248), (250, 250, 248), (40, 40, 44), False),
    "blueprint": ((26, 66, 140), (42, 86, 164), (238, 246, 255), False),
    "silhouette": ((250, 250, 248), (250, 250, 248), (16, 16, 18), True),
}
OUTLINE_TONE = 0.58
"""Outline brightness relative to the fill."""
_SUPERSAMPLE = 4
# Lengths in pixels of a 64-pixel box.
_BOX_PX = 64.0
_OUTLINE_PX = 3.0
_LINE_PX = 6.0  # in styles that draw lines only; thinner lines get lost in a token
_ROUNDING_PX = 2.5
_EXTENT_PX = {"square": 52.0, "diamond": 60.0}
_EXTENT_DEFAULT_PX = 58.0


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


def _outline_points(shape: str) -> np.ndarray:
    """Corners [n, 2] of a shape, (x, y) with y down, at any scale and position."""
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    if shape == "diamond":
        return np.array([(0, -1), (0.82, 0), (0, 1), (-0.82, 0)], float)
    if shape == "triangle":
        return np.array([(0, -0.92), (1, 0.92), (-1, 0.92)], float)
    if shape == "cross":
        a = 0.38
        quarter = np.array([(-a, -1), (a, -1), (a, -a)])
        turns = [np.array([(1, 0), (0, 1)]), np.array([(0, 1), (-1, 0)])]
        turns += [-turns[0], -turns[1]]
        return np.concatenate([quarter @ turn for turn in turns])
    if shape == "star":
        angle = np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2, 0.46, 1.0)
        return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], -1)
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)  # heart
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], -1)


def _polygon_distance(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of points to a closed polygon, negative inside (even-odd rule)."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
        if dy:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * dx / dy)
    return np.where(inside, -nearest, nearest)


@lru_cache(maxsize=64)
def _coverage(shape: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel coverage [box, box] in 0..1: whole shape, inside the outline, inside the thick line."""
    box = BOX * size // GRID
    n = box * _SUPERSAMPLE
    axis = ((np.arange(n) + 0.5) / n - 0.5) * _BOX_PX
    x, y = axis[None, :], axis[:, None]
    extent = _EXTENT_PX.get(shape, _EXTENT_DEFAULT_PX)
    if shape == "circle":
        distance = np.hypot(x, y) - extent / 2
    else:
        points = _outline_points(shape)
        low, high = points.min(0), points.max(0)
        scale = (extent - 2 * _ROUNDING_PX) / (high - low).max()
        points = (points - (low + high) / 2) * scale
        grid = np.broadcast_arrays(x, y)
        distance = _polygon_distance(points, *grid) - _ROUNDING_PX
    fold = (box, _SUPERSAMPLE, box, _SUPERSAMPLE)
    edges = (0, -_OUTLINE_PX, -_LINE_PX)
    masks = tuple((distance < edge).reshape(fold).mean((1, 3)) for edge in edges)
    for mask in masks:
        mask.flags.writeable = False
    return masks


def thing_mask(shape: str, size: int) -> np.ndarray:
    """Antialiased coverage of a shape in its slot: float64 [box, box], 0..1, box = size / 4.

    Read-only, shared between calls. Raises InputError for an unknown shape or size.
    """
    check_size(size)
    if shape not in SHAPES:
        raise InputError(f"shape is {shape!r}; give one of {', '.join(SHAPES)}")
    return _coverage(shape, int(size))[0]


def _pattern(background: str, edge: int) -> np.ndarray:
    """Weight of the second tone in one token of a background, [edge, edge] in 0..1."""
    n = edge * _SUPERSAMPLE
    axis = (np.arange(n) + 0.5) / n
    x, y = axis[None, :], axis[:, None]
    if background == "striped":
        second = (x + y) % 1 < 0.5
    elif background == "checkered":
        second = (x < 0.5) != (y < 0.5)
    elif background == "dotted":
        second = np.hypot(x - 0.5, y - 0.5) < 0.24
    else:
        second = np.zeros((n, n), bool)
    return second.reshape(edge, _SUPERSAMPLE, edge, _SUPERSAMPLE).mean((1, 3))


@lru_cache(maxsize=64)
def ground_picture(background: str, style: str, size: int) -> np.ndarray:
    """Draw an empty picture: uint8 [size, size, 3], read-only; styles override the background."""
    edge = size // GRID
    if style == "plain":
        first, second = GROUND[background]
        share = _pattern(background, edge)[..., None]
    else:
        first, second = STYLE[style][:2]
        share = np.zeros((edge, edge, 1))
        share[0, :] = share[:, 0] = 1.0  # a faint ruling, one line per token
    tile = np.array(first) * (1 - share) + np.array(second) * share
    picture = np.tile(np.rint(tile).astype(np.uint8), (GRID, GRID, 1))
    picture.flags.writeable = False
    return picture


@lru_cache(maxsize=1024)
def sprite(shape: str, color: str, background: str, style: str, size: int) -> np.ndarray:
    """Draw a slot with an object and its background: uint8 [box, box, 3], read-only."""
    whole, inner, inside = (mask[..., None] for mask in _coverage(shape, size))
    box = whole.shape[0]
    under = ground_picture(background, style, size)[:box, :box].astype(float)
    if style == "plain":
        fill = np.array(FILL[color], float)
        painted = under * (1 - whole) + OUTLINE_TONE * fill * (whole - inner) + fill * inner
    else:
        _, _, ink, filled = STYLE[style]
        cover = whole if filled else whole - inside
        painted = under * (1 - cover) + np.array(ink, float) * cover
    patch = np.rint(painted).astype(np.uint8)
    patch.flags.writeable = False
    return patch
