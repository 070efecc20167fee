"""Noise that is the same everywhere: whole numbers, hashed by exact arithmetic."""

import numpy as np

_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def keyed(*keys: int | np.ndarray) -> np.ndarray:
    """Hash whole numbers, broadcast together, to float64 in 0..1 (53 bits)."""
    value = np.zeros(np.broadcast_shapes(*(np.shape(key) for key in keys)), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            value = (value ^ np.asarray(key).astype(np.uint64)) * np.uint64(_FACTORS[0])
            for shift, factor in ((30, _FACTORS[1]), (27, _FACTORS[2])):
                value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
            value = value ^ (value >> np.uint64(31))
    return (value >> np.uint64(11)).astype(np.float64) * 2.0**-53


def lattice_noise(x: np.ndarray, y: np.ndarray, rows: int, cols: int, *keys: int) -> np.ndarray:
    """Smooth noise in -1..1 over the unit square, of rows x cols lattice points.

    Points on the border depend on the first key only, and opposite borders are equal: squares of
    the same first key fit together seamlessly, in any order.
    """
    i, j = np.mgrid[:rows, :cols]
    inner = keyed(i, j, *keys) * 2 - 1
    points = np.where((i == 0) | (j == 0), keyed(i, j, keys[0]) * 2 - 1, inner)
    v, u = y * rows, x * cols
    top, left = np.floor(v).astype(int), np.floor(u).astype(int)
    v, u = _ease(v - top), _ease(u - left)
    upper, lower = top % rows, (top + 1) % rows
    west, east = left % cols, (left + 1) % cols
    above = points[upper, west] * (1 - u) + points[upper, east] * u
    below = points[lower, west] * (1 - u) + points[lower, east] * u
    return above * (1 - v) + below * v


def _ease(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)
