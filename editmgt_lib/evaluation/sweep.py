"""Success and outside error against lambda (paper, Figure 7)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .batches import PairBatch, batch_count, edit_batch, pair_batches, seeded
from .metrics import mean, outside_error
from .options import LOCAL, EvaluationOptions, Progress
from .success import judge
from .tables import markdown, number, percent

if TYPE_CHECKING:
    from ..pipeline import EditMGT

DEFAULT_SAMPLES = 10


@dataclass(frozen=True)
class SweepPoint:
    """Figures at one lambda under one hold rule; "local" leaves out background and style edits."""

    hold_rule: str
    threshold: float
    success: float
    outside: float | None
    local_success: float | None
    local_outside: float | None


@dataclass(frozen=True)
class Sweep:
    """The curve: `samples` pairs per category at each point."""

    samples: int
    points: tuple[SweepPoint, ...]

    @property
    def hold_rules(self) -> tuple[str, ...]:
        """The rules measured, in order."""
        return tuple(dict.fromkeys(point.hold_rule for point in self.points))

    def of(self, hold_rule: str) -> list[SweepPoint]:
        """The points of one rule by rising lambda."""
        points = [point for point in self.points if point.hold_rule == hold_rule]
        return sorted(points, key=lambda point: point.threshold)

    def best(self, hold_rule: str) -> SweepPoint:
        """The least outside error among lambdas that lose no success of local edits.

        The lowest lambda counts as the reference; of equally good points the lowest wins.
        """
        points = self.of(hold_rule)
        wanted = points[0].local_success or 0.0
        good = [point for point in points if (point.local_success or 0.0) >= wanted]
        return min(good, key=lambda point: (point.local_outside or 0.0, point.threshold))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        best = {rule: self.best(rule).threshold for rule in self.hold_rules}
        points = [asdict(point) for point in self.points]
        return {"samples": self.samples, "best": best, "points": points}

    def table(self) -> str:
        """The points as markdown."""
        lines = [
            (
                point.hold_rule, f"{point.threshold:g}",
                percent(point.local_success), number(point.local_outside, 4),
                percent(point.success), number(point.outside, 4),
            )
            for point in self.points
        ]  # fmt: skip
        heading = (
            "hold rule", "lambda", "success, local", "outside error, local", "success, all",
            "outside error, all",
        )  # fmt: skip
        best = ", ".join(f"{rule} {self.best(rule).threshold:g}" for rule in self.hold_rules)
        note = f"Region-hold against lambda, {self.samples} pairs per category (best: {best}):"
        return f"{note}\n\n{markdown(heading, lines)}"


@dataclass(frozen=True)
class _Hit:
    local: bool
    success: bool
    outside: float | None


def sweep_threshold(
    model: "EditMGT", options: EvaluationOptions, progress: Progress | None = None
) -> Sweep:
    """Edit the same pairs, from the same random numbers, at every lambda and hold rule.

    Lambda 0 is off under any rule and run once.
    """
    samples = options.sweep_samples or min(options.samples, DEFAULT_SAMPLES)
    sampling = options.sampling or model.settings.sampling
    rules = options.hold_rules or (sampling.hold_rule,)
    runs = [(rule, threshold) for rule in rules for threshold in sorted(set(options.thresholds))]
    hits: dict[tuple[str, float], list[_Hit]] = {run: [] for run in runs}
    total = batch_count(options, options.categories, samples)
    batches = pair_batches(model, options, options.categories, samples)
    for number_, batch in enumerate(batches, 1):
        for run, found in _sweep_batch(model, batch, options, runs).items():
            hits[run] += found
        if progress is not None:
            progress(number_, total, f"lambda sweep, {batch.category}")
    return Sweep(samples, tuple(_point(run, found) for run, found in hits.items()))


def _sweep_batch(
    model: "EditMGT",
    batch: PairBatch,
    options: EvaluationOptions,
    runs: Sequence[tuple[str, float]],
) -> dict[tuple[str, float], list[_Hit]]:
    sampling = options.sampling or model.settings.sampling
    reading = options.localization or model.settings.localization
    found = model.localize(batch.tokens, batch.instruction, reading, sampling)
    done: dict[Any, list[_Hit]] = {}
    for rule, threshold in runs:
        key = (rule, threshold) if threshold else threshold
        if key not in done:
            chosen = seeded(sampling, batch, options.seed, threshold=threshold, hold_rule=rule)
            pictures = edit_batch(model, batch, chosen, found).pictures
            done[key] = [_hit(batch, k, pictures[k], options) for k in range(len(pictures))]
    return {run: done[run if run[1] else run[1]] for run in runs}


def _hit(batch: PairBatch, k: int, picture: np.ndarray, options: EvaluationOptions) -> _Hit:
    outside = outside_error(picture, batch.sources[k], batch.changed[k], options.tolerance)
    success = judge(picture, batch.pairs[k]).succeeded
    return _Hit(batch.category in LOCAL, success, outside.mean)


def _point(run: tuple[str, float], hits: Sequence[_Hit]) -> SweepPoint:
    local = [hit for hit in hits if hit.local]
    return SweepPoint(
        *run,
        success=float(np.mean([hit.success for hit in hits])),
        outside=mean([hit.outside for hit in hits]),
        local_success=mean([float(hit.success) for hit in local]),
        local_outside=mean([hit.outside for hit in local]),
    )
