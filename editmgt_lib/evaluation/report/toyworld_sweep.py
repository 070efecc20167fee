"""Success and outside error against lambda (paper, Figure 7)."""

from dataclasses import asdict, dataclass
from typing import Any

from ...pages.markdown import markdown, number, percent

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
