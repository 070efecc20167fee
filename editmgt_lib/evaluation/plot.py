"""One or two curves with an axis each, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 70, 54, 52
_COLORS = ("#2462e0", "#d65c10")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in ascending order of x; y None is left out."""

    name: str
    points: Sequence[tuple[float, float | None]]

    @property
    def known(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    if least <= 0:
        return 0.01
    unit = 10.0 ** math.floor(math.log10(least))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= least * 0.999)


def draw_plot(curves: Sequence[Curve], label: str) -> str:
    """Draw up to two curves over one axis named `label`; each has an axis from 0 of its own."""
    xs = sorted({x for curve in curves for x, _ in curve.points})
    first, span = xs[0], (xs[-1] - xs[0]) or 1.0
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + (right - _LEFT) * (x - first) / span

    parts = [_text(across(x), floor + 18, f"{x:g}", "#262a32", "middle") for x in xs]
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, label, "#262a32", "middle"))
    for number, (curve, color) in enumerate(zip(curves, _COLORS, strict=False)):
        step = nice_step(max((abs(y) for _, y in curve.known), default=0.0) / 5)
        at, anchor = ((_LEFT - 8, "end"), (right + 8, "start"))[number]
        for k in range(6):
            y = floor - (floor - _TOP) * k / 5
            if number == 0:
                parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e7ec"/>')
            parts.append(_text(at, y + 4, f"{k * step:g}", color, anchor))
        places = [(across(x), floor - (floor - _TOP) * y / (5 * step)) for x, y in curve.known]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in places]
        parts.append(_text(_LEFT, 20 + 18 * number, curve.name, color, "start"))
    parts.append(f'<path d="M{_LEFT} {floor}H{right}" stroke="#262a32"/>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, color: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
    )
