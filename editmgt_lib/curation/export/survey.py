"""What a pass over all rows counts, and the few rows it keeps to show."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from ...data.rows import clean
from ..decide import Decision
from ..rows import DROP, FAILED, KEEP, Row
from ..terms import Terms
from .selection import Pair, category_of, editor_terms, numbers_of, source_terms

SPLITS = "instructions"  # the stage behind which a picture is several rows
NONE = "-"  # category of what has no instruction yet


class Seen(NamedTuple):
    """Where a row stands; the key rows are counted and sampled by."""

    reached: str
    category: str
    verdict: str
    reason: str


class Granted(NamedTuple):
    """Terms of a source's pictures or of an editor's outputs; of: "source" or "editor"."""

    of: str
    name: str
    licence: str
    uses: tuple[str, ...]


@dataclass
class Spread:
    """Numbers of one value: how many there are, and what they are like."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def plain(self) -> dict[str, float]:
        """As plain data."""
        mean = round(self.total / self.count, 6)
        return {"rows": self.count, "mean": mean, "least": self.least, "most": self.most}


@dataclass
class Survey:
    """Counts over all rows of a curation, and samples of each group of them.

    Attributes:
        samples: rows kept of each group of `Seen`.
        seen: all rows. pictures: the first row of each picture, which may continue as several.
        left_out: kept rows that are not exported, by reason.
        exported: rows by category; reversed ones are counted apart, and nowhere else.
        terms, makers (by role and name), revisions (by editor), unscored (by value), values (by
            "stage.name"): of the exported rows.
    """

    samples: int
    seen: Counter[Seen] = field(default_factory=Counter)
    pictures: Counter[Seen] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    exported: Counter[str] = field(default_factory=Counter)
    reversed: Counter[str] = field(default_factory=Counter)
    terms: Counter[Granted] = field(default_factory=Counter)
    revisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    makers: Counter[tuple[str, str]] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    values: defaultdict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    _root: str = ""
    _kept: dict[Seen, list[Any]] = field(default_factory=dict)

    def see(self, row: Row, decision: Decision) -> None:
        """Count a row, and keep it if its id hashes low among its group's.

        Rows of one picture come one after the other.
        """
        key = Seen(decision.reached, category_of(row) or NONE, decision.verdict, decision.reason)
        self.seen[key] += 1
        self.pictures[key] += row.root != self._root
        self._root = row.root
        order = -int.from_bytes(sha256(row.id.encode()).digest()[:8], "big")
        kept, entry = self._kept.setdefault(key, []), (order, row.id, row, decision)
        if len(kept) < self.samples:
            heapq.heappush(kept, entry)
        elif kept and entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    def take(self, pair: Pair) -> None:
        """Count a row that is exported."""
        cells = pair.cells
        if pair.swapped:
            self.reversed[cells["type"]] += 1
            return
        self.exported[cells["type"]] += 1
        self._grant("source", cells["source"], source_terms(pair.row))
        self._edited(cells["editor"] or NONE, cells["editor_revision"], editor_terms(pair.row))
        if pair.lost is not None:
            lost = cells["rejected_editor"] or NONE
            self._edited(lost, cells["rejected_revision"], pair.lost)
        makers = {"writers": cells["writer"], "judges": cells["judge"]}
        self.makers.update((role, name) for role, name in makers.items() if name)
        self.unscored.update(cells["unscored"])
        for stage in pair.row.found:
            for name, value in numbers_of(pair.row, stage):
                self.values[f"{stage}.{name}"].add(value)

    def _edited(self, editor: str, revision: str | None, terms: Terms) -> None:
        self._grant("editor", editor, terms)
        self.revisions[editor, revision or ""] += 1
        self.makers["editors", editor] += 1

    def _grant(self, of: str, name: str, terms: Terms) -> None:
        self.terms[Granted(of, name, clean(terms.licence), terms.uses)] += 1

    def sampled(self) -> list[tuple[Row, Decision]]:
        """The rows kept to show, in an order that says nothing."""
        entries = (entry for kept in self._kept.values() for entry in kept)
        return [(row, decision) for *_, row, decision in sorted(entries, key=lambda e: e[:2])]

    def survival(self, stages: Sequence[str]) -> list[dict[str, Any]]:
        """By stage what was seen, kept, dropped, failed: pictures, then their instructions.

        From the stage that writes instructions on also by category.
        """
        table = []
        for at, stage in enumerate(stages):
            whole = SPLITS not in stages[: at + 1]
            counts = self.pictures if whole else self.seen
            beyond = {key: n for key, n in counts.items() if key.reached in stages[at:]}
            kinds = {key.category for key in beyond} - {NONE}
            for category in ("", *(() if whole else sorted(kinds))):
                mine = {k: n for k, n in beyond.items() if category in ("", k.category)}
                table.append({"stage": stage, "category": category, **_counts(mine, stage)})
        return table


def _counts(beyond: Mapping[Seen, int], stage: str) -> dict[str, Any]:
    here = {key: n for key, n in beyond.items() if key.reached == stage and key.verdict != KEEP}
    verdicts = {v: sum(n for k, n in here.items() if k.verdict == v) for v in (DROP, FAILED)}
    reasons: Counter[str] = Counter()
    for key, n in here.items():
        reasons[key.reason] += n
    seen = sum(beyond.values())
    ordered = sorted(reasons.items(), key=lambda r: (-r[1], r[0]))
    return {
        "seen": seen,
        "kept": seen - sum(verdicts.values()),
        "dropped": verdicts[DROP],
        "failed": verdicts[FAILED],
        "reasons": dict(ordered),
    }
