"""How far a judge is from published scores of the same pictures.

GEdit's authors publish results of editors with their scores. Judge those pictures once with your
judge: the mean difference is its offset, which belongs to that judge, prompts and resize alone.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from ...errors import InputError
from ...files import atomic_write_json
from ..items import Item, Score
from .protocols import overall

_COLUMNS = {"sc": "sementics_score", "pq": "quality_score"}  # as the published tables spell them


@dataclass(frozen=True)
class Calibration:
    """The offset of one metric.

    Attributes:
        metric: full name, with judge, prompts and resize. source: whose scores, in your words.
        items: compared. published, judged: their means. offset: judged - published.
        error: standard error of the offset. correlation: over the items; None if either is
            constant.
    """

    metric: str
    source: str
    items: int
    published: float
    judged: float
    offset: float
    error: float
    correlation: float | None

    def save(self, path: Path) -> None:
        """Write as JSON."""
        atomic_write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote. Raises InputError for any other file."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"cannot read {path} as a calibration: {error}") from error

    def on_published_scale(self, metric: str, mean: float) -> float:
        """Take the offset from a mean. Raises InputError for a metric that was not calibrated."""
        if metric != self.metric:
            raise InputError(
                f"the calibration is of {self.metric}, the score of {metric}; two judges, prompts "
                "or resizes are not comparable: calibrate this one"
            )
        return mean - self.offset


def calibrate(
    scores: Iterable[Score], metric: str, published: Mapping[str, float], source: str
) -> Calibration:
    """Compare the scores of a run over published pictures with the published ones, by item id.

    Raises InputError if fewer than 2 items have both.
    """
    ours = {s.item: s.value for s in scores if s.metric == metric and s.status == "ok"}
    items = sorted(set(ours) & set(published))
    if len(items) < 2:
        raise InputError(
            f"{len(items)} items have both a score {metric} and a published one; check that they "
            "are of the same pictures"
        )
    ours_here, theirs = [ours[i] for i in items], [published[i] for i in items]
    differences = [mine - other for mine, other in zip(ours_here, theirs, strict=True)]
    error = stdev(differences) / sqrt(len(items))
    return Calibration(
        metric, source, len(items), fmean(theirs), fmean(ours_here), fmean(differences), error,
        _correlation(ours_here, theirs),
    )  # fmt: skip


def _correlation(first: list[float], second: list[float]) -> float | None:
    a, b = fmean(first), fmean(second)
    spread = sqrt(sum((x - a) ** 2 for x in first) * sum((y - b) ** 2 for y in second))
    shared = sum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    return shared / spread if spread else None


def read_published(
    files: Iterable[Path], items: Iterable[Item], criterion: str
) -> dict[str, float]:
    """Read GEdit's published tables (CSV with key, sementics_score, quality_score), by item id.

    criterion: "sc", "pq" or "o". Keys that two items or two rows share are left out.
    Raises InputError for other files.
    """
    by_key: dict[str, list[str]] = {}
    for item in items:
        by_key.setdefault(str(item.extra.get("key", item.id)), []).append(item.id)
    rows = [row for file in files for row in _rows(file)]
    counts = Counter(key for key, _, _ in rows)
    values = {"sc": lambda sc, pq: sc, "pq": lambda sc, pq: pq, "o": overall}[criterion]
    return {
        by_key[key][0]: values(sc, pq)
        for key, sc, pq in rows
        if counts[key] == 1 and len(by_key.get(key, ())) == 1
    }


def _rows(file: Path) -> list[tuple[str, float, float]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [
                (row["key"], float(row[_COLUMNS["sc"]]), float(row[_COLUMNS["pq"]]))
                for row in csv.DictReader(lines)
                if row.get("instruction_language", "en") == "en"
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot read {file} as published scores ({error!r}); give a CSV with the columns key, "
            f"{_COLUMNS['sc']} and {_COLUMNS['pq']}"
        ) from error
