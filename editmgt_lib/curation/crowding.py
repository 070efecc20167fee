"""Not too many instructions about the same thing: what one picture alone cannot say."""

from collections import Counter
from dataclasses import dataclass, field, replace

from .decide import Decision
from .rows import DROP, Row
from .wording import words

STAGE = "instructions"


@dataclass
class Crowd:
    """Counts rows, in order, by category and object; those beyond `most` are dropped.

    A row counts once its instruction is kept, whatever becomes of its edit, so that later stages do
    not change which rows they are given. most: 0 for all.
    """

    most: int
    _counts: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def thinned(self, row: Row, decision: Decision) -> Decision:
        """The decision, or that the row is one too many."""
        if not self.most or STAGE not in row.found or decision.stage in _until(row):
            return decision
        name = (row.value(f"{STAGE}.category", ""), *words(row.value(f"{STAGE}.object", "")))
        self._counts[name] += 1
        if self._counts[name] <= self.most:
            return decision
        return replace(
            decision, verdict=DROP, stage=STAGE, reason="common", measured=self._counts[name],
            limit=f"<= {self.most}", reached=STAGE,
        )  # fmt: skip


def _until(row: Row) -> tuple[str, ...]:
    """Stages of a row up to the instructions."""
    stages = tuple(row.found)
    return stages[: stages.index(STAGE) + 1]
