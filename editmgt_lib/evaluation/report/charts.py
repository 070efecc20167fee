"""Plots as inline SVG; colors are classes of the page's style sheet, so that dark mode has its own.

All lengths are in pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..curve import nice_step
from .text import counted, shown, with_interval

_WIDTH, _NAMES, _RIGHT, _ROW, _TOP, _AXIS = 390, 112, 12, 20, 6, 22
_HISTOGRAM = 90
_MOST_NAME = 18

Bar = tuple[str, Mapping[str, Any]]


def bars(tasks: Sequence[Bar], marks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Horizontal bars with intervals; marks: baselines' cells in the same order, as ticks.

    Ticks share a bar's height, since equal ones would hide each other.
    """
    cells = [cell for _, cell in tasks] + [cell for row in marks.values() for cell in row]
    known = [
        cell[key] for cell in cells for key in ("mean", "low", "high") if cell[key] is not None
    ]
    if not known:
        return ""
    scale = _Scale(min(0.0, *known), max(0.0, *known), _NAMES, _WIDTH - _RIGHT)
    floor = _TOP + _ROW * len(tasks)
    parts = list(_axis(scale, floor))
    for place, (name, cell) in enumerate(tasks):
        y = _TOP + _ROW * place
        parts.append(
            f"<g><title>{escape(f'{name}: {with_interval(cell)}, {counted(cell)}')}</title>"
        )
        parts.append(_text(_NAMES - 8, y + 14, _short(name), "end"))
        parts += _bar(cell, y, scale, " total" if place == len(tasks) - 1 else "")
        parts += [
            _tick(row[place]["mean"], y, scale, (number, len(marks)))
            for number, row in enumerate(marks.values())
            if row[place]["mean"] is not None
        ]
        parts.append("</g>")
    return _svg(parts, floor + _AXIS, "means with 95 % intervals")


def histogram(found: Mapping[str, Any] | None) -> str:
    """How many items have which value."""
    if found is None:
        return ""
    low, high, counts = found["low"], found["high"], found["counts"]
    scale = _Scale(low, high, 34, _WIDTH - _RIGHT, exact=True)
    most, floor = max(counts), _TOP + 12 + _HISTOGRAM
    parts = list(_axis(scale, floor))
    width = (high - low) / len(counts)
    for place, count in enumerate(counts):
        left, right = scale(low + width * place), scale(low + width * (place + 1))
        height = _HISTOGRAM * count / most
        title = f"{low + width * place:.4g} to {low + width * (place + 1):.4g}: {count} items"
        parts.append(
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{floor - height:.1f}" '
            f'width="{max(0.5, right - left - 1):.1f}" height="{height:.1f}">'
            f"<title>{title}</title></rect>"
        )
    parts.append(_text(28, floor - _HISTOGRAM + 4, str(most), "end"))
    parts.append(_text(28, floor + 4, "0", "end"))
    return _svg(parts, floor + _AXIS, "histogram of the items' values")


class _Scale:
    """Values to places along x, with round values for ticks."""

    def __init__(
        self, low: float, high: float, left: float, right: float, exact: bool = False
    ) -> None:
        self.step = nice_step(((high - low) or 1.0) / 4)
        first, last = low / self.step, high / self.step
        start, end = -int(-first // 1) if exact else int(first // 1), int(last // 1)
        end += 0 if exact or end >= last else 1
        self.ticks = [k * self.step for k in range(start, end + 1)]
        self.low, self.high = (low, high) if exact else (start * self.step, end * self.step)
        self.left, self.right = left, right

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.left + (self.right - self.left) * share


def _axis(scale: _Scale, floor: float) -> Iterator[str]:
    for tick in scale.ticks:
        x = scale(tick)
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{floor}"/>'
        yield _text(x, floor + 15, f"{tick:.6g}", "middle")


def _bar(cell: Mapping[str, Any], y: float, scale: _Scale, kind: str) -> Iterator[str]:
    if cell["mean"] is None:
        yield _text(scale(max(scale.low, 0)) + 6, y + 14, "n/a", "start")
        return
    ends = sorted((scale(0), scale(cell["mean"])))
    yield (
        f'<rect class="bar{kind}" x="{ends[0]:.1f}" y="{y + 4}" '
        f'width="{max(1.0, ends[1] - ends[0]):.1f}" height="{_ROW - 8}"/>'
    )
    if cell["low"] is not None:
        low, high, middle = scale(cell["low"]), scale(cell["high"]), y + _ROW / 2
        yield (
            f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}'
            f'M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>'
        )


def _tick(value: float, y: float, scale: _Scale, which: tuple[int, int]) -> str:
    (number, count), x = which, scale(value)
    height = (_ROW - 4) / count
    return (
        f'<path class="mark mark{number}" d="M{x:.1f} {y + 2 + number * height:.1f}v{height:.1f}">'
        f"<title>{shown(value, 4)}</title></path>"
    )


def _short(name: str) -> str:
    return name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {height:.0f}">'
        + "".join(parts)
        + "</svg>"
    )
