"""Success and outside error against lambda (paper, Figure 7)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pages.markdown import markdown, number, percent
from .batches import PairBatch, batch_count, edit_batch, pair_batches, seeded
from .metrics import mean, outside_error
from .options import LOCAL, EvaluationOptions, Progress
from .success import judge

if TYPE_CHECKING:
    from ..pipeline import EditMGT

_DIGITS = 4  # of an error in the table


@dataclass(frozen=True)
class SweepPoint:
    """Figures at one lambda under one hold rule; "local" excludes background and style edits."""

    hold_rule: str
    threshold: float
    success: float
    outside: float | None
    local_success: float | None
    local_outside: float | None


@dataclass(frozen=True)
class Sweep:
    """The curve, with `samples` pairs per category at each point."""

    samples: int
    points: tuple[SweepPoint, ...]

    @property
    def hold_rules(self) -> tuple[str, ...]:
        """The rules measured, in order."""
        return tuple(dict.fromkeys(point.hold_rule for point in self.points))

    def of(self, hold_rule: str) -> list[SweepPoint]:
        """The points of one rule in ascending order of lambda."""
        points = [point for point in self.points if point.hold_rule == hold_rule]
        return sorted(points, key=lambda point: point.threshold)

    def best(self, hold_rule: str) -> SweepPoint:
        """Lowest outside error among lambdas with no less local success than the lowest lambda.

        Errors are compared as the table shows them, so that rounding decides nothing; the lowest
        lambda wins a tie.
        """
        points = self.of(hold_rule)
        required = points[0].local_success or 0.0
        good = [point for point in points if (point.local_success or 0.0) >= required]
        return min(good, key=lambda p: (round(p.local_outside or 0.0, _DIGITS), p.threshold))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        best = {rule: self.best(rule).threshold for rule in self.hold_rules}
        points = [asdict(point) for point in self.points]
        return {"samples": self.samples, "best": best, "points": points}

    def table(self) -> str:
        """Format the points as markdown."""
        lines = [
            (
                point.hold_rule, f"{point.threshold:g}",
                percent(point.local_success), number(point.local_outside, _DIGITS),
                percent(point.success), number(point.outside, _DIGITS),
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
class _Edit:
    local: bool
    success: bool
    outside: float | None


def sweep_threshold(
    model: "EditMGT", options: EvaluationOptions, progress: Progress | None = None
) -> Sweep:
    """Edit the same pairs, from the same random numbers, at every lambda and hold rule.

    Lambda 0 turns holding off; its edits are made once for all rules.
    """
    options = options.completed(model.settings)
    samples = min(options.samples, options.study_samples)
    rules = options.hold_rules or (options.sampling.hold_rule,)
    edits = {run: [] for run in product(rules, sorted(set(options.thresholds)))}
    total = batch_count(options, options.categories, samples)
    batches = pair_batches(model, options, options.categories, samples)
    for done, batch in enumerate(batches, 1):
        localization = model.localize(
            batch.tokens, batch.instruction, options.localization, options.sampling
        )
        free: list[_Edit] = []
        for (rule, threshold), edited in edits.items():
            if threshold == 0 and free:
                edited += free
                continue
            run = seeded(options.sampling, batch, options.seed, threshold=threshold, hold_rule=rule)
            pictures = edit_batch(model, batch, run, localization).pictures
            measured = [_measure(batch, k, picture, options) for k, picture in enumerate(pictures)]
            edited += measured
            if threshold == 0:
                free = measured
        if progress is not None:
            progress(done, total, f"lambda sweep, {batch.category}")
    return Sweep(samples, tuple(_point(run, edited) for run, edited in edits.items()))


def _measure(batch: PairBatch, k: int, picture: np.ndarray, options: EvaluationOptions) -> _Edit:
    outside = outside_error(picture, batch.sources[k], batch.changed[k], options.tolerance)
    success = judge(picture, batch.pairs[k]).succeeded
    return _Edit(batch.category in LOCAL, success, outside.mean)


def _point(run: tuple[str, float], edits: Sequence[_Edit]) -> SweepPoint:
    local = [edit for edit in edits if edit.local]
    return SweepPoint(
        *run,
        success=float(np.mean([edit.success for edit in edits])),
        outside=mean([edit.outside for edit in edits]),
        local_success=mean([float(edit.success) for edit in local]),
        local_outside=mean([edit.outside for edit in local]),
    )
