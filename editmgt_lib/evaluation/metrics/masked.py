"""How well an editor keeps to the region it was asked to edit. `mask` is True where to edit.

Pictures are 8-bit [H, W, 3] of one size, `result` against its own `source`.
"""

import numpy as np

from .base import NotApplicable
from .pixels import Pixels, differences

RINGS = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, None))
"""Distances from the mask in pixels, above the first and up to the second."""


def changed(result: Pixels, source: Pixels, threshold: int) -> np.ndarray:
    """Pixels of which any channel differs by more than `threshold` of 255: bool [H, W]."""
    return differences(result, source).max(-1) > threshold


def changed_outside(result: Pixels, source: Pixels, mask: np.ndarray, threshold: int) -> float:
    """Share of the pixels outside the mask that changed."""
    return float(changed(result, source, threshold)[~mask].mean())


def leaked(result: Pixels, source: Pixels, mask: np.ndarray, power: int) -> float:
    """Share of the absolute (power 1) or squared (2) change that lies outside the mask."""
    change = differences(result, source) ** power
    return _share_outside(change.sum(-1, dtype=np.int64), mask)


def leaked_pixels(result: Pixels, source: Pixels, mask: np.ndarray, threshold: int) -> float:
    """Share of the changed pixels that lie outside the mask."""
    return _share_outside(changed(result, source, threshold), mask)


def _share_outside(change: np.ndarray, mask: np.ndarray) -> float:
    total = int(change.sum())
    if not total:
        raise NotApplicable("nothing changed")
    return int(change[~mask].sum()) / total


def change_iou(result: Pixels, source: Pixels, mask: np.ndarray, threshold: int) -> float:
    """Intersection over union of the changed pixels and the mask."""
    found = changed(result, source, threshold)
    return int((found & mask).sum()) / int((found | mask).sum())


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """Grow a mask by `radius` pixels in all eight directions (chessboard distance)."""
    for axis in (0, 1):
        counts = np.insert(mask.cumsum(axis), 0, 0, axis)
        size = mask.shape[axis]
        places = np.arange(size)
        above = counts.take(np.minimum(places + radius + 1, size), axis)
        below = counts.take(np.maximum(places - radius, 0), axis)
        mask = above > below
    return mask


def ring(mask: np.ndarray, inner: int, outer: int | None) -> np.ndarray:
    """Pixels at a chessboard distance from the mask above `inner`, up to `outer` if given."""
    near = dilated(mask, inner)
    return ~near if outer is None else dilated(mask, outer) & ~near
