"""What back ends were asked for, counted from what was found, and a budget for it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..checks import require_number
from .rows import Found

UNITS = ("calls", "edits", "tokens", "hours")
_FREE = ("sources", "images")  # stages that ask nobody


@dataclass(frozen=True)
class BudgetOptions:
    """The most that all runs of a curation may take together; 0: no limit. Raises InputError.

    Attributes:
        calls: requests to models; answers that were kept on disk are free.
        edits: by all editors, failed ones too.
        tokens: of questions and answers, as servers count them.
        hours: of work on stages.
    """

    calls: int = 0
    edits: int = 0
    tokens: int = 0
    hours: float = 0.0

    def __post_init__(self) -> None:
        for unit in UNITS:
            require_number(unit, getattr(self, unit), 0, whole=unit != "hours")

    def __str__(self) -> str:
        return told({unit: getattr(self, unit) for unit in UNITS})


def costs_of(stage: str, found: Found) -> Counter[str]:
    """Calls, edits and tokens behind what a stage found about a row.

    A failure keeps no words of a model; it counts as one call.
    """
    costs = Counter(edits=len(found.values.get("candidates", ())))
    for answer in _answers(found.values):
        if not answer.get("cached"):
            costs["calls"] += sum(one.get("tries", 1) for one in answer["attempts"])
            costs["tokens"] += sum(_tokens(one.get("usage", {})) for one in answer["attempts"])
    if found.failure is not None and stage not in _FREE and not +costs:
        costs["calls"] = 1
    return +costs


def told(spent: Mapping[str, float]) -> str:
    """For people: "1,200 calls, 2.5 hours"."""
    return ", ".join(f"{spent[unit]:,.4g} {unit}" if unit == "hours" else
                     f"{spent[unit]:,} {unit}" for unit in UNITS if spent.get(unit))  # fmt: skip


class Budget:
    """A budget during a run. earlier: what the runs before took, by unit."""

    def __init__(
        self,
        options: BudgetOptions,
        earlier: Mapping[str, float],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.options, self._clock = options, clock
        self._earlier, self._start = dict(earlier), clock()
        self._counts: Counter[str] = Counter()

    def add(self, stage: str, found: Found) -> None:
        """Count what a row took."""
        self._counts.update(costs_of(stage, found))

    @property
    def spent(self) -> dict[str, float]:
        """So far, by unit."""
        now = {**self._counts, "hours": (self._clock() - self._start) / 3600}
        return {unit: self._earlier.get(unit, 0) + now.get(unit, 0) for unit in UNITS}

    @property
    def exhausted(self) -> str:
        """The unit of which nothing is left; "" while there is some of all."""
        spent, most = self.spent, self.options
        return next((unit for unit in UNITS if 0 < getattr(most, unit) <= spent[unit]), "")


def _answers(value: Any) -> Iterator[Mapping[str, Any]]:
    """Records of models' answers, wherever they lie in plain values."""
    if isinstance(value, Mapping):
        if "attempts" in value:
            yield value
            return
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for one in value:
        yield from _answers(one)


def _tokens(usage: Mapping[str, Any]) -> int:
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return sum(count for count in counts if isinstance(count, int))
