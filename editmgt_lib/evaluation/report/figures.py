"""The figures of one run: a cell per metric and group of items, and what it leaves out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from ...errors import InputError
from ..items import Item, Score
from ..naming import Meaning
from ..runs import RunFolder
from ..statistics import Column, bootstrap, paired, smallest_difference

BINS = 24


@dataclass(frozen=True)
class Counting:
    """How scores become figures; as in `statistics`."""

    failures: str = "worst"
    draws: int = 10_000
    seed: int = 42


@dataclass(frozen=True)
class Cell:
    """A mean with its 95 % interval and standard error, and how many items are behind it.

    n: items in the mean, failed ones among them unless they are dropped. infinite, missing (not
    scored yet) and not_applicable ones are left out. low, high, error: None for fewer than two
    independent items and where all values are equal, of which a bootstrap cannot tell.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    n: int = 0
    failed: int = 0
    not_applicable: int = 0
    infinite: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Figures:
    """All cells of one metric. macro: mean of the tasks' means; micro: of all items."""

    macro: Cell
    micro: Cell
    tasks: Mapping[str, Cell]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Results:
    """The scores of one run: of items that count, by metric and item id."""

    name: str
    run: RunFolder
    items: tuple[Item, ...]
    scores: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, run: RunFolder, exclude: Sequence[str] = ()) -> "Results":
        """Read a run; turns inside a chain do not count, nor items with defects to exclude.

        Raises InputError for a defect that no item has.
        """
        items = run.final_items()
        known = defects(items)
        if unknown := [defect for defect in exclude if defect not in known]:
            raise InputError(
                f"no item has the defect {unknown[0]!r}; known are: {', '.join(known) or 'none'}"
            )
        items = tuple(item for item in items if not set(item.exclusions) & set(exclude))
        ids = {item.id for item in items}
        found: dict[str, dict[str, Score]] = {}
        for (item, metric), score in run.scores().items():
            if item in ids:
                found.setdefault(metric, {})[item] = score
        return cls(name, run, items, found)

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the data."""
        return tuple(dict.fromkeys(item.task for item in self.items))

    def column(self, metric: Meaning, failures: str) -> Column:
        """The values of a metric."""
        scores = self.scores.get(metric.name, {}).values()
        return Column.of(scores, metric.worst, failures)

    def figures(self, metric: Meaning, counting: Counting) -> Figures:
        """All cells of a metric."""
        scores = self.scores.get(metric.name, {})
        column = self.column(metric, counting.failures)

        def of(items: Sequence[Item], macro: bool = False) -> Cell:
            return _cell(items, scores, column, counting, macro)

        by_task = {task: [i for i in self.items if i.task == task] for task in self.tasks}
        tasks = {task: of(items) for task, items in by_task.items()}
        return Figures(of(self.items, macro=True), of(self.items), tasks)


def defects(items: Iterable[Item]) -> dict[str, int]:
    """How many items have which known defect."""
    return dict(Counter(name for item in items for name in item.exclusions))


def _cell(
    items: Sequence[Item],
    scores: Mapping[str, Score],
    column: Column,
    counting: Counting,
    macro: bool,
) -> Cell:
    statuses = [scores[item.id].status if item.id in scores else "missing" for item in items]
    ids = {item.id for item in items}
    own = np.array([item in ids for item in column.items], bool)
    infinite = int(np.isinf(column.values[own]).sum()) if len(own) else 0
    estimate = estimated(column, items, counting, macro)
    return Cell(
        **estimate,
        failed=statuses.count("failed"),
        not_applicable=statuses.count("n/a"),
        infinite=infinite,
        missing=statuses.count("missing"),
    )


def estimated(
    column: Column, items: Iterable[Item], counting: Counting, macro: bool = False
) -> dict[str, Any]:
    """Mean, low, high, error and n of a column's finite values over some items.

    Drawn by clusters; for macro, the mean of tasks' means.
    """
    known = {item.id: item for item in items}
    finite = column.finite
    places = [(k, known[name]) for k, name in enumerate(finite.items) if name in known]
    if not places:
        return {"mean": None, "low": None, "high": None, "error": None, "n": 0}
    values = finite.values[[k for k, _ in places]]
    clusters = [item.cluster or item.id for _, item in places]
    groups = [item.task for _, item in places] if macro else None
    found = bootstrap(
        values, groups=groups, clusters=clusters, draws=counting.draws, seed=counting.seed
    )
    spread = found.error > 1e-9 * max(1.0, abs(found.mean))  # equal values tell nothing of others
    sure = len(set(clusters)) > 1 and spread
    low, high, error = (found.low, found.high, found.error) if sure else (None,) * 3
    return {"mean": found.mean, "low": low, "high": high, "error": error, "n": len(values)}


def difference(
    first: Results, second: Results, metric: Meaning, counting: Counting, by_task: bool = True
) -> dict[str, dict[str, Any]]:
    """Paired estimates of first - second over the items that both have.

    By "macro", "micro" and, if asked for, "tasks".
    """
    columns = [results.column(metric, counting.failures) for results in (first, second)]
    column = paired(*columns)
    macro, micro = (estimated(column, first.items, counting, macro) for macro in (True, False))
    found = {"macro": macro, "micro": micro}
    if by_task:
        found["tasks"] = {
            task: estimated(column, [i for i in first.items if i.task == task], counting)
            for task in first.tasks
        }
    return found


def detectable(cell: Cell) -> dict[str, float] | None:
    """Smallest difference that a second run with as wide a spread would show in 8 of 10 cases.

    By the correlation of the two runs over the items: "0", as if on other items, and "0.5".
    """
    if cell.error is None:
        return None
    return {f"{r:g}": smallest_difference(cell.error * sqrt(2 * (1 - r))) for r in (0.0, 0.5)}


def histogram(column: Column) -> dict[str, Any] | None:
    """Counts of the finite values in equal bins."""
    values = column.finite.values
    if not len(values):
        return None
    counts, edges = np.histogram(values, BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}
