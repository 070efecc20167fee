"""What an edit changed: which pixels, in which regions, inside or outside the place meant.

Pictures are uint8 [H, W, 3] of one size, differences are taken on wider integers, and everything is
counted exactly, so that every processor agrees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
"""top, bottom, left, right in pixels; ends excluded."""
BLOCK = 8  # px
SAME_PLACE = 4  # regions of at least 1/4 of the largest are meant too: several objects, or a move
MARGIN = 32  # a place is widened by 1/32 of the short side: soft edges, contact shadows
LEAST_OUTSIDE = 0.05  # of a picture; with less left outside the place, nothing can be said


class Regions(NamedTuple):
    """4-connected regions of changed pixels.

    areas: pixels of each. boxes: int64 [N, 4], a `Box` each.
    """

    areas: np.ndarray
    boxes: np.ndarray

    @property
    def largest(self) -> int:
        """Area of the largest."""
        return int(self.areas.max()) if len(self.areas) else 0


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Largest difference of any channel: uint8 [H, W]."""
    parts = np.maximum(before, after) - np.minimum(before, after)
    return np.maximum(np.maximum(parts[..., 0], parts[..., 1]), parts[..., 2])


def strongest(before: np.ndarray, after: np.ndarray) -> int:
    """Largest difference of the means of blocks of 8 x 8 pixels, of any channel, in levels.

    A JPEG leaves these means as they are, however much it changes single pixels.
    """
    height, width = before.shape[:2]
    side = min(BLOCK, height, width)
    box = (0, 0, width // side * side, height // side * side)
    one, other = (np.asarray(Image.fromarray(x).reduce(side, box)) for x in (before, after))
    return int(difference(one, other).max())


def drift(before: np.ndarray, after: np.ndarray, where: np.ndarray | None = None) -> int:
    """How much lighter (> 0) or darker luma uint8 [H, W] became, in levels: the median.

    where: mask of the pixels that should have stayed.
    """
    shifts = (
        after.astype(np.int16) - before
        if where is None
        else (after[where].astype(np.int16) - before[where])
    )
    counts = np.bincount((shifts + 255).ravel(), minlength=511)
    return int(np.searchsorted(counts.cumsum(), shifts.size / 2)) - 255


def regions(changed: np.ndarray) -> Regions:
    """Find the regions of a mask bool [H, W]."""
    runs = _runs(changed)
    parents = _joined(len(runs.rows), runs.lower, runs.upper)
    roots = np.flatnonzero(parents == np.arange(len(parents)))
    index = np.searchsorted(roots, parents)
    boxes = np.zeros((len(roots), 4), np.int64)
    boxes[:, 0] = runs.rows[roots]  # runs are in reading order: the root is the topmost,
    boxes[index, 1] = runs.rows + 1  # and the last of each region counts
    boxes[:, 2] = changed.shape[1]
    np.minimum.at(boxes[:, 2], index, runs.starts)
    np.maximum.at(boxes[:, 3], index, runs.ends)
    areas = np.bincount(index, runs.ends - runs.starts, len(roots))
    return Regions(areas.astype(np.int64), boxes)


class _Runs(NamedTuple):
    """Horizontal runs in reading order, and which of them touch across two rows.

    rows, starts, ends (excluded): of each. lower, upper: numbers of two that touch.
    """

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _runs(mask: np.ndarray) -> _Runs:
    height, width = mask.shape
    line = width + 1
    padded = np.zeros((height, width + 2), bool)
    padded[:, 1:-1] = mask
    border = (padded[:, 1:] != padded[:, :-1]).ravel()
    starts, ends = np.flatnonzero(border).reshape(-1, 2).T
    rows = starts // line
    passed = np.cumsum(border, dtype=np.int32)  # borders up to a place; two make a whole run
    below = starts >= line
    low = np.where(below, passed[starts - line] // 2, 0)  # runs above that ended before
    high = np.where(below, (passed[ends - 1 - line] + 1) // 2, 0)  # and that began before the end
    counts = high - low
    lower = np.repeat(np.arange(len(rows)), counts)
    upper = np.arange(len(lower)) + np.repeat(low - (counts.cumsum() - counts), counts)
    return _Runs(rows, starts - rows * line, ends - rows * line, lower, upper)


def _joined(number: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The lowest number that each of `number` things is linked to, by pairs."""
    parents = np.arange(number)
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        np.minimum.at(parents, high, low)
        while not np.array_equal(jumped := parents[parents], parents):
            parents = jumped
        first, second = parents[first], parents[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return parents


def isolated(changed: np.ndarray) -> int:
    """Number of changed pixels without a changed neighbour above, below, left or right."""
    near = np.zeros_like(changed)
    near[1:] |= changed[:-1]
    near[:-1] |= changed[1:]
    near[:, 1:] |= changed[:, :-1]
    near[:, :-1] |= changed[:, 1:]
    return int((changed & ~near).sum())


def place_of(found: Regions) -> list[Box]:
    """Where an edit seems to have been meant: the boxes of its large regions."""
    large = found.areas * SAME_PLACE >= found.largest
    return [tuple(map(int, box)) for box in found.boxes[large]]


def outside_of(place: Sequence[Box], shape: tuple[int, int]) -> np.ndarray | None:
    """Mask of the pixels outside a place and its margin; None if hardly any are."""
    margin = -(-min(shape) // MARGIN)
    outside = np.ones(shape, bool)
    for top, bottom, left, right in place:
        rows = slice(max(0, top - margin), bottom + margin)
        outside[rows, max(0, left - margin) : right + margin] = False
    return outside if outside.sum() >= LEAST_OUTSIDE * outside.size else None
