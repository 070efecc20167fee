"""Which row a global number means: every row once per epoch, sources in exact proportions."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..errors import InputError
from .draws import draws

CYCLE = 1000  # groups in which every source of a mixture gets its exact share


class Permutation:
    """An endless sequence of rows 0..rows-1, shuffled anew in every epoch by (seed, epoch).

    Raises InputError for no rows.
    """

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise InputError("there are no rows to train on; see what the readers skipped, and why")
        self.rows, self.seed = rows, seed
        # Two: a global batch may straddle two epochs.
        self._order = lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return draws(self.seed, epoch, "order").permutation(self.rows)

    def locate(self, number: int) -> tuple[int, int]:
        """Row and epoch of a global number."""
        epoch, position = divmod(number, self.rows)
        return int(self._order(epoch)[position]), epoch


class Mixture:
    """An endless interleaving of sources by weight, in groups of consecutive numbers.

    Every `CYCLE` groups hold each source in proportion to its weight, in an order shuffled by
    (seed, cycle). Each source is read in its own order without gaps, so its epochs stay whole.

    Args:
        weights: one above 0 per source, of any sum.
        group: consecutive numbers that come from one source.

    Raises:
        InputError: a weight that is not above 0, or too small for a group per cycle.
    """

    def __init__(self, weights: Sequence[float], seed: int, group: int = 1) -> None:
        self.seed, self.group = seed, group
        self.shares = _shares(weights)
        self._cycle = lru_cache(maxsize=2)(self._draw)

    def _draw(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of each group, and how many of the cycle's earlier groups it had."""
        sources = np.repeat(np.arange(len(self.shares)), self.shares)
        sources = draws(self.seed, cycle, "mixture").permutation(sources)
        ranks = np.empty(CYCLE, np.int64)
        for source, share in enumerate(self.shares):
            ranks[sources == source] = np.arange(share)
        return sources, ranks

    def locate(self, number: int) -> tuple[int, int]:
        """Source of a global number, and the number it has there."""
        group, offset = divmod(number, self.group)
        cycle, position = divmod(group, CYCLE)
        sources, ranks = self._cycle(cycle)
        source = int(sources[position])
        before = cycle * self.shares[source] + int(ranks[position])
        return source, before * self.group + offset


def _shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Split a cycle in proportion to the weights, by largest remainders."""
    good = [isinstance(w, (int, float)) and 0 < w < float("inf") for w in weights]
    if not weights or not all(good):
        raise InputError(f"weights are {list(weights)}; give each source a number above 0")
    exact = np.asarray(weights, np.float64) / sum(weights) * CYCLE
    shares = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")[: CYCLE - int(shares.sum())]
    shares[largest] += 1
    if not shares.all():
        raise InputError(
            f"weights are {list(weights)}; the smallest is below 1 in {CYCLE} of their sum, "
            "so leave that source out or give it more"
        )
    return tuple(int(share) for share in shares)
