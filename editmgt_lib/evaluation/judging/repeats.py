"""How much a judge differs from itself: the same run judged several times."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from ..items import Item
from ..runs import RunFolder
from ..statistics import group_means
from .running import SCORES


@dataclass(frozen=True)
class Repeats:
    """One metric, judged several times.

    Attributes:
        items: with a score in every repeat; others are left out.
        macro, micro: of each repeat, the mean of tasks' means and of items.
        macro_deviation, micro_deviation: standard deviation between the repeats (n - 1).
    """

    items: int
    macro: tuple[float, ...]
    micro: tuple[float, ...]

    @property
    def macro_deviation(self) -> float:
        return stdev(self.macro)

    @property
    def micro_deviation(self) -> float:
        return stdev(self.micro)


def between_runs(run: RunFolder, items: Iterable[Item] | None = None) -> dict[str, Repeats]:
    """All metrics judged more than once, by name; items: all by default."""
    tasks = {item.id: item.task for item in (run.items() if items is None else items)}
    found: dict[str, dict[str, list[float]]] = {}
    for row in run.rows(SCORES):
        if row["item"] in tasks and row["status"] == "ok" and row.get("repeats"):
            found.setdefault(row["metric"], {})[row["item"]] = row["repeats"]
    return {metric: _repeats(values, tasks) for metric, values in sorted(found.items())}


def _repeats(values: Mapping[str, list[float]], tasks: Mapping[str, str]) -> Repeats:
    items = sorted(values)
    table = np.array([values[item] for item in items], np.float64).T
    groups = [tasks[item] for item in items]
    macro = tuple(fmean(group_means(row, groups).values()) for row in table)
    return Repeats(len(items), macro, tuple(float(row.mean()) for row in table))
