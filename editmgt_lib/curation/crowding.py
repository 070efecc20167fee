"""Not too many instructions about the same thing: what one picture alone cannot say."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .decide import Decision
from .rows import DROP, Row
from .wording import words

STAGE = "instructions"
_NAMED = 5  # most frequent words that a summary names


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


def summarize_words(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Count instructions by category, with the commonest objects and first words.

    Rows without an instruction are left out.
    """
    first: dict[str, Counter[str]] = {}
    objects: dict[str, Counter[str]] = {}
    for row in rows:
        if STAGE in row.found:
            category, text, name = (
                row.value(f"{STAGE}.{key}", "") for key in ("category", "instruction", "object")
            )
            first.setdefault(category, Counter())[" ".join(words(text)[:1])] += 1
            objects.setdefault(category, Counter())[" ".join(words(name))] += 1
    return {
        name: {
            "rows": first[name].total(), "objects": len(objects[name]),
            "top_objects": _top(objects[name]), "top_first_words": _top(first[name]),
        }
        for name in sorted(first)
    }  # fmt: skip


def _top(counts: Counter[str]) -> list[list[Any]]:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return [list(one) for one in ordered[:_NAMED]]


def _until(row: Row) -> tuple[str, ...]:
    """Stages of a row up to the instructions."""
    stages = tuple(row.found)
    return stages[: stages.index(STAGE) + 1]
