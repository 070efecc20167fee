"""How sure a mean is: failures beside it, bootstrap intervals, what difference could be seen.

Numpy only. Every draw follows from the seed and from the order of the items, which `Column` sorts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, lgamma, pi, sqrt
from statistics import NormalDist

import numpy as np

from ..checks import require_choice
from ..errors import InputError
from .items import Score

FAILURES = ("worst", "drop")
_CHUNK = 1 << 21  # numbers drawn at a time


@dataclass(frozen=True, eq=False)
class Column:
    """One metric over the items of a run.

    Attributes:
        items: ids in order, of all that count.
        values: float64, one per item; inf where a PSNR is.
        failed: items whose value is the worst one, or that are left out.
        not_applicable: items for which the metric is undefined; they are left out.
    """

    items: tuple[str, ...]
    values: np.ndarray
    failed: int = 0
    not_applicable: int = 0

    @classmethod
    def of(cls, scores: Iterable[Score], worst: float, failures: str = "worst") -> "Column":
        """Collect the scores of one metric; a later score of an item replaces an earlier one.

        failures: "worst" counts a failed item as `worst`; "drop" leaves it out, as some old tables
            do, which favours models that fail on hard items.
        Raises InputError for scores of several metrics.
        """
        require_choice("failures", failures, FAILURES)
        last = {score.item: score for score in scores}
        names = sorted({score.metric for score in last.values()})
        if len(names) > 1:
            raise InputError(f"a column holds one metric, not {' and '.join(names[:2])}")
        failed = [s.item for s in last.values() if s.status == "failed"]
        found = {s.item: s.value for s in last.values() if s.status == "ok"}
        if failures == "worst":
            found |= dict.fromkeys(failed, worst)
        items = tuple(sorted(found))
        values = np.array([found[item] for item in items], np.float64)
        return cls(items, values, len(failed), sum(s.status == "n/a" for s in last.values()))

    @property
    def infinite(self) -> int:
        """Items left out of means because their value is infinite."""
        return int(np.isinf(self.values).sum())

    @property
    def finite(self) -> "Column":
        """The column without infinite values."""
        keep = np.isfinite(self.values)
        items = tuple(item for item, kept in zip(self.items, keep, strict=True) if kept)
        return Column(items, self.values[keep], self.failed, self.not_applicable)


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile interval and standard error, both from the bootstrap.

    below: share of the draws at or below 0; for a difference, how often the order would turn.
    """

    mean: float
    low: float
    high: float
    error: float
    below: float


def paired(first: Column, second: Column) -> Column:
    """Differences first - second of the items that both have with finite values."""
    other = dict(zip(second.items, second.values, strict=True))
    both = [
        (item, value - other[item])
        for item, value in zip(first.items, first.values, strict=True)
        if np.isfinite(value) and np.isfinite(other.get(item, np.inf))
    ]
    values = np.array([value for _, value in both], np.float64)
    return Column(tuple(item for item, _ in both), values)


def group_means(values: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    """Mean per group, by name in order. Their mean is the macro mean; that of `values` micro."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    return {str(name): float(mean) for name, mean in zip(names, sums / counts, strict=True)}


def bootstrap(
    values: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    draws: int = 10_000,
    seed: int = 42,
    level: float = 0.95,
) -> Estimate:
    """Estimate the mean of `values`, or with `groups` the unweighted mean of the groups' means.

    groups: one per value. Values are drawn anew within each group, in order of the names.
    clusters: one per value, equal for values that are not independent; whole clusters are drawn.
        Where a cluster reaches over several groups they are drawn from all; a draw in which a group
        is empty takes the mean of the others.
    Give the differences of `paired` for a paired comparison.
    Raises InputError without values.
    """
    if not len(values):
        raise InputError("there are no values to average; all items failed or are n/a")
    values = np.asarray(values, np.float64)
    group = _places(groups, len(values))
    cluster = np.arange(len(values)) if clusters is None else _places(clusters, len(values))
    sums, counts = _totals(values, cluster, group)
    means = _drawn_means(sums, counts, draws, np.random.default_rng(seed))
    tail = 50 * (1 - level)
    low, high = np.percentile(means, (tail, 100 - tail))
    mean = (sums.sum(0) / counts.sum(0)).mean()
    return Estimate(
        float(mean), float(low), float(high), float(means.std(ddof=1)), float((means <= 0).mean())
    )


def _places(names: Sequence[str] | None, count: int) -> np.ndarray:
    if names is None:
        return np.zeros(count, np.int64)
    if len(names) != count:
        raise InputError(f"there are {count} values and {len(names)} groups or clusters")
    return np.unique(np.asarray(names), return_inverse=True)[1].ravel()


def _totals(
    values: np.ndarray, cluster: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the values by cluster and group, [clusters, groups]."""
    shape = (int(cluster.max()) + 1, int(group.max()) + 1)
    place = cluster * shape[1] + group
    size = shape[0] * shape[1]
    sums = np.bincount(place, values, size).reshape(shape)
    return sums, np.bincount(place, minlength=size).reshape(shape)


def _drawn_means(
    sums: np.ndarray, counts: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Means of groups' means of `draws` samples of clusters, [draws]."""
    if ((counts > 0).sum(1) > 1).any():
        totals, sizes = _resampled(sums, counts, draws, rng)
        with np.errstate(invalid="ignore"):
            return np.nanmean(totals / sizes, 1)
    means = []
    for column in range(sums.shape[1]):
        own = counts[:, column] > 0
        pick = np.s_[own, column : column + 1]
        totals, sizes = _resampled(sums[pick], counts[pick], draws, rng)
        means.append((totals / sizes)[:, 0])
    return np.mean(means, 0)


def _resampled(
    sums: np.ndarray, counts: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts [draws, groups] of as many clusters as there are, drawn with replacement."""
    size, groups = sums.shape
    totals, sizes = np.empty((draws, groups)), np.empty((draws, groups))
    step = max(1, _CHUNK // (size * groups))
    for start in range(0, draws, step):
        chosen = rng.integers(0, size, (min(step, draws - start), size))
        part = slice(start, start + len(chosen))
        totals[part], sizes[part] = sums[chosen].sum(1), counts[chosen].sum(1)
    return totals, sizes


def smallest_difference(error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference found with probability `power` by a two-sided test at `alpha`.

    error: standard error of the difference, as from `bootstrap` or `paired_error`.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * error


def paired_error(deviation: float, count: int, correlation: float = 0.0) -> float:
    """Standard error of the difference of two means over the same `count` items.

    deviation: standard deviation of the items of each; correlation: between the two.
    """
    return deviation * sqrt(2 * (1 - correlation) / count)


def macro_error(deviation: float, counts: Sequence[int]) -> float:
    """Standard error of the mean of group means, given the groups' sizes."""
    return deviation * sqrt(sum(1 / count for count in counts)) / len(counts)


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """Student's t of paired differences and its two-sided p. Raises InputError for fewer than 2."""
    count = len(differences)
    if count < 2:
        raise InputError(f"a t test needs at least 2 pairs, there are {count}")
    error = float(np.std(differences, ddof=1)) / sqrt(count)
    mean = float(np.mean(differences))
    if not error:
        return (0.0, 1.0) if not mean else (float(np.copysign(np.inf, mean)), 0.0)
    return mean / error, _two_sided_p(abs(mean / error), count - 1)


def _two_sided_p(t: float, freedom: int) -> float:
    """P(|T| > t): with T = sqrt(freedom) tan(u) the density is proportional to cos(u)^(freedom-1).

    The mass between the origin and t is summed by Gauss-Legendre.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    top = np.arctan2(t, sqrt(freedom))
    inner = float((weights * np.cos(top * (nodes + 1) / 2) ** (freedom - 1)).sum() * top / 2)
    scale = exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(pi)
    return max(0.0, 1 - 2 * scale * inner)
