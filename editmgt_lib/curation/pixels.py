"""Scores of a picture that need no model. Sums are of integers, so every processor agrees."""

import math

import numpy as np

TILES = 8  # along each side
_BAND = 1 << 20  # values turned to float64 at a time
DIGITS = 6  # of a score; the last bit of a logarithm differs between processors


def grey(rgb: np.ndarray) -> np.ndarray:
    """Luma of uint8 [H, W, 3] as Pillow computes it (ITU-R 601): uint8 [H, W]."""
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).convert("L"))


def histogram(luma: np.ndarray) -> np.ndarray:
    """How often each of 256 levels occurs."""
    return np.bincount(luma.ravel(), minlength=256)


def entropy(counts: np.ndarray) -> float:
    """Bits of a histogram of levels, 0..8."""
    shares = (counts[counts > 0] / counts.sum()).tolist()
    return _rounded(-sum(share * math.log2(share) for share in shares))


def spread(counts: np.ndarray) -> float:
    """Standard deviation of a histogram of levels, 0..127.5."""
    every, number = np.arange(256), int(counts.sum())
    total, squares = int(counts @ every), int(counts @ every**2)
    return _rounded(math.sqrt(squares * number - total * total) / number)


def levels(counts: np.ndarray) -> tuple[float, float]:
    """The level 5 % of the pixels do not exceed, and that of 99 %, as fractions of white."""
    below = counts.cumsum()
    low, high = (int(np.searchsorted(below, below[-1] * part)) for part in (0.05, 0.99))
    return _rounded(low / 255), _rounded(high / 255)


def laplacian(luma: np.ndarray) -> np.ndarray:
    """Second differences within the picture: int16 [H - 2, W - 2]."""
    x = luma.astype(np.int16)
    return x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]


def edges(differences: np.ndarray) -> float:
    """Variance of the Laplacian, 0 for a picture that is flat or a ramp."""
    return _rounded(_variance(differences))


def sharpness(differences: np.ndarray) -> float:
    """Variance of the Laplacian in the sharpest of 8 x 8 tiles.

    A portrait on a blurred background has a sharp tile, a shaken picture has none.
    """
    height, width = differences.shape
    rows, columns = min(TILES, height), min(TILES, width)
    if not rows or not columns:
        return 0.0
    tiles = (
        tile
        for band in np.array_split(differences, rows, 0)
        for tile in np.array_split(band, columns, 1)
    )
    return _rounded(max(_variance(tile) for tile in tiles))


def colours(rgb: np.ndarray) -> float:
    """Colourfulness of Hasler and Süsstrunk (2003), 0 for grey."""
    first, second = _Moments(), _Moments()  # red-green, and twice yellow-blue
    for band in _bands(rgb):
        red, green, blue = (band[..., i].astype(np.int16) for i in range(3))
        first.add(red - green)
        second.add(red + green - 2 * blue)
    spreads = first.variance + second.variance / 4
    means = first.mean**2 + (second.mean / 2) ** 2
    return _rounded(math.sqrt(spreads) + 0.3 * math.sqrt(means))


class _Moments:
    """Sums of small integers and of their squares, which float64 holds exactly in any order."""

    def __init__(self) -> None:
        self.count = self.total = self.squares = 0

    def add(self, values: np.ndarray) -> None:
        x = values.ravel().astype(np.float64)
        self.count += x.size
        self.total += int(x.sum())
        self.squares += int(x @ x)

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)

    @property
    def variance(self) -> float:
        squared = max(1, self.count) ** 2
        return (self.squares * self.count - self.total * self.total) / squared


def _variance(values: np.ndarray) -> float:
    """Population variance."""
    moments = _Moments()
    for band in _bands(values):
        moments.add(band)
    return moments.variance


def _bands(values: np.ndarray) -> list[np.ndarray]:
    """Cut into bands of rows, since float64 of a whole picture could take gigabytes."""
    return np.array_split(values, 1 + values.size // _BAND) if values.size else []


def _rounded(value: float) -> float:
    return round(value, DIGITS) + 0.0  # no negative zero
