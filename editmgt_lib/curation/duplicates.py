"""Copies among pictures, from their hashes alone: the second pass, over all shards at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..checks import require_number
from ..errors import InputError
from .hashing import distances

BITS = 64
MOST = 16  # bits; independent pictures lie 24 or more apart
_PAIRS = 1 << 22  # compared at a time


class Hashed(NamedTuple):
    """A picture as this pass sees it. `area` in pixels; `pixels`: hash of the decoded picture."""

    id: str
    area: int
    pixels: str
    phash: int
    mirrored: int


class Copy(NamedTuple):
    """Which picture a copy repeats; bits: of the hash that differ. exact: the pixels are equal."""

    of: str
    bits: int
    exact: bool


def find_copies(pictures: Sequence[Hashed], most: int, mirrored: bool = True) -> dict[str, Copy]:
    """Find the pictures that repeat another one.

    Of equal or similar pictures the largest stays, of these the first in the sequence. A picture is
    a copy only of one that stays, so that similarity does not creep along a chain.

    most: bits by which the hashes of copies may differ; -1 for equal pixels only.
    mirrored: mirror images are copies too.
    """
    require_number("distance", most, -1, MOST, whole=True)
    order = sorted(range(len(pictures)), key=lambda i: (-pictures[i].area, i))
    copies: dict[str, Copy] = {}
    stays: dict[str, str] = {}
    left: list[int] = []
    for i in order:
        of = stays.setdefault(pictures[i].pixels, pictures[i].id)
        if of != pictures[i].id:
            copies[pictures[i].id] = Copy(of, 0, True)
        else:
            left.append(i)
    if len({p.id for p in pictures}) != len(pictures):
        raise InputError("two rows have one id; ids must be unique")
    if most >= 0:
        copies |= _similar([pictures[i] for i in left], most, mirrored)
    return copies


def _similar(pictures: Sequence[Hashed], most: int, mirrored: bool) -> dict[str, Copy]:
    """Copies among pictures in the order of preference."""
    neighbours: dict[int, list[tuple[int, int]]] = {}  # of the later picture
    hashes = np.array([p.phash for p in pictures], np.uint64)
    turned = [np.array([p.mirrored for p in pictures], np.uint64)] if mirrored else []
    for other in (hashes, *turned):
        for first, second, bits in close_pairs(hashes, other, most):
            early, late = min(first, second), max(first, second)
            if early != late:
                neighbours.setdefault(late, []).append((bits, early))
    copies: dict[str, Copy] = {}
    for late, picture in enumerate(pictures):
        staying = [(b, k) for b, k in neighbours.get(late, ()) if pictures[k].id not in copies]
        if staying:
            bits, nearest = min(staying)
            copies[picture.id] = Copy(pictures[nearest].id, bits, False)
    return copies


def close_pairs(first: np.ndarray, second: np.ndarray, most: int) -> Iterator[tuple[int, int, int]]:
    """Pairs (i, j, bits) of first[i] and second[j] that differ in at most `most` bits.

    Hashes [N] that differ in at most k bits agree in one of k + 1 bands of bits, so only those that
    agree in a band are compared. A pair may come several times.
    """
    edges = np.linspace(0, BITS, most + 2).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        ones = np.uint64((1 << int(high - low)) - 1)
        bands = [(hashes >> np.uint64(low)) & ones for hashes in (first, second)]
        rows = np.argsort(bands[1], kind="stable")
        band = bands[1][rows]
        starts = np.searchsorted(band, bands[0], "left")
        counts = np.searchsorted(band, bands[0], "right") - starts
        for low_row, high_row in _chunks(counts):
            of = np.repeat(np.arange(low_row, high_row), counts[low_row:high_row])
            within = np.arange(len(of)) - np.repeat(
                np.cumsum(counts[low_row:high_row]) - counts[low_row:high_row],
                counts[low_row:high_row],
            )
            with_ = rows[starts[of] + within]
            bits = distances(first[of], second[with_])
            near = np.flatnonzero((bits <= most) & (of != with_))
            yield from zip(
                of[near].tolist(), with_[near].tolist(), bits[near].tolist(), strict=True
            )


def _chunks(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of rows that together have about `_PAIRS` pairs."""
    totals, start = np.cumsum(counts), 0
    while start < len(counts):
        before = totals[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(totals, before + _PAIRS, "right")))
        yield start, end
        start = end
