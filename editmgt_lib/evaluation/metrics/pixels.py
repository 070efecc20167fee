"""Differences of pixels between two 8-bit pictures of one size, in units of the full range.

Sums are of whole numbers, so results are the same on every processor.
"""

from math import inf, log10

import numpy as np

from .samples import Pixels

RANGE = 255


def differences(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> np.ndarray:
    """Absolute differences 0..255, int32 [H, W, 3], or [N, 3] of the pixels in `where` [H, W]."""
    if where is not None:
        first, second = first[where], second[where]
    return np.abs(first.astype(np.int32) - second)


def l1(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
    """Mean absolute difference over pixels and channels, 0..1."""
    found = differences(first, second, where)
    return int(found.sum(dtype=np.int64)) / (RANGE * found.size)


def l2(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
    """Mean squared difference over pixels and channels, 0..1."""
    found = differences(first, second, where)
    return int((found * found).sum(dtype=np.int64)) / (RANGE**2 * found.size)


def psnr(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB; inf if nothing differs."""
    error = l2(first, second, where)
    return -10 * log10(error) + 0.0 if error else inf
