"""Figures of `editmgt evaluate`, read from the runs of its two settings and of its sweep."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...toyworld.success import Fault, Verdict
from ..items import Item, Score
from ..metrics import OutsideError, Overlap, Sample, mean, read_sample
from ..metrics.toyworld import (
    MOVED,
    OUTSIDE,
    SUCCESS,
    cells_of_map,
    overlap_of,
    pair_of,
    verdict_of,
)
from ..naming import meaning_of
from ..options import LOCAL
from ..runs import Attempt, RunFolder
from .toyworld import Outcome, PairResult, Row
from .toyworld_sweep import SweepPoint


@dataclass(frozen=True, eq=False)
class _Edits:
    """One run: a result for every pair."""

    run: RunFolder
    scores: Mapping[tuple[str, str], Score]
    attempts: Mapping[str, Attempt]

    @classmethod
    def of(cls, run: RunFolder) -> "_Edits":
        return cls(run, run.scores(), run.attempts())

    def value(self, item: Item, metric: str) -> float | None:
        """A score, the worst one for a failure, or None where the metric is undefined."""
        score = self.scores[item.id, metric]
        return meaning_of(metric).worst if score.status == "failed" else score.value

    def sample(self, item: Item) -> Sample:
        run = self.run
        return read_sample(item, run.picture(item), run.locate, run.map(item))

    def outcome(self, item: Item, sample: Sample) -> Outcome:
        failure = Verdict((Fault("edited", "everywhere", sample.failure),))
        verdict = failure if sample.failure else verdict_of(sample)
        outside = OutsideError(self.value(item, OUTSIDE), self.value(item, MOVED))
        return Outcome(verdict, outside)


def read_pairs(
    free: RunFolder, held: RunFolder, threshold: float, rows: int
) -> tuple[tuple[PairResult, ...], tuple[Row, ...]]:
    """Read both edits of every pair; rows: of each category, for the contact sheet."""
    edits = _Edits.of(free), _Edits.of(held)
    results: list[PairResult] = []
    shown: list[Row] = []
    ranks: dict[str, int] = {}
    for item in free.items():
        samples = [one.sample(item) for one in edits]
        result = _pair(item, edits, samples, threshold)
        results.append(result)
        ranks[item.task] = rank = ranks.get(item.task, -1) + 1
        if rank < rows and not any(sample.failure for sample in samples):
            shown.append(_row(result, samples, threshold))
    return tuple(results), tuple(shown)


def _pair(
    item: Item, edits: tuple[_Edits, _Edits], samples: list[Sample], threshold: float
) -> PairResult:
    free, held = (one.outcome(item, s) for one, s in zip(edits, samples, strict=True))
    unknown = Overlap(None, None, None, None)
    return PairResult(
        category=item.task,
        index=item.extra["index"],
        instruction=item.instruction,
        free=free,
        held=held,
        held_share=edits[1].attempts[item.id].held or 0.0,
        overlap=unknown if samples[1].failure else overlap_of(samples[1], threshold),
    )


def _row(result: PairResult, samples: list[Sample], threshold: float) -> Row:
    local = result.category in LOCAL
    free, held = samples
    relevance = cells_of_map(held)
    return Row(
        pair=pair_of(held),
        source=held.pictures["source"] / np.float32(255),
        relevance=relevance,
        held=relevance < threshold if local else np.zeros(relevance.shape, bool),
        result=(held if local else free).pictures["result"] / np.float32(255),
        verdict=(result.held if local else result.free).verdict,
    )


def read_point(run: RunFolder, hold_rule: str, threshold: float) -> SweepPoint:
    """Average over the pairs of one setting."""
    edits = _Edits.of(run)

    def average(metric: str, local: bool) -> float | None:
        items = [item for item in run.items() if not local or item.task in LOCAL]
        return mean([edits.value(item, metric) for item in items])

    return SweepPoint(
        hold_rule,
        threshold,
        success=average(SUCCESS, local=False) or 0.0,
        outside=average(OUTSIDE, local=False),
        local_success=average(SUCCESS, local=True),
        local_outside=average(OUTSIDE, local=True),
    )
