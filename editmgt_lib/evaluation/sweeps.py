"""What a sweep found: a table, and with one option swept the paper's Figure 7.

That is two curves over lambda: L1 to the source, and a score of success.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..files import atomic_write_bytes, atomic_write_json
from ..pages.markdown import markdown, number
from .items import Score
from .naming import meaning_of
from .plot import Curve, draw_plot
from .runs import RunFolder
from .statistics import Column

L1 = "l1/source/fit-output"
"""Scored in every sweep: how far the result is from the source."""
_DIGITS = 4


@dataclass(frozen=True)
class Figure:
    """A metric at one point: its mean, failures counted as the worst value, and counts."""

    mean: float | None
    items: int
    failed: int
    not_applicable: int


@dataclass(frozen=True)
class Point:
    """One combination of values, and the figures by metric."""

    values: Mapping[str, Any]
    figures: Mapping[str, Figure]


def write_sweep(run: RunFolder, points: Mapping[str, Mapping[str, Any]]) -> None:
    """Write sweep.json and sweep.md, and sweep.svg where one numeric option (no seed) is swept.

    points: values by the name of the run in sweep/.
    """
    found = [Point(values, _figures(run.part("sweep", name))) for name, values in points.items()]
    atomic_write_json(run.path / "sweep.json", {"points": [asdict(point) for point in found]})
    atomic_write_bytes(run.path / "sweep.md", (table(found) + "\n").encode())
    names = list(found[0].values)
    numeric = all(isinstance(p.values[names[0]], (int, float)) for p in found)
    if len(names) == 1 and numeric and names != ["seed"]:
        atomic_write_bytes(run.path / "sweep.svg", figure(found, names[0]).encode())


def table(points: Sequence[Point]) -> str:
    """Format means as markdown, one line per point."""
    options = list(points[0].values)
    names = list(dict.fromkeys(name for point in points for name in point.figures))
    lines = []
    for point in points:
        means = [point.figures.get(name) for name in names]
        cells = [number(figure.mean if figure else None, _DIGITS) for figure in means]
        failed = max((f.failed for f in means if f is not None), default=0)
        lines.append((*(f"{point.values[option]}" for option in options), *cells, str(failed)))
    return markdown((*options, *names, "failed"), lines)


def figure(points: Sequence[Point], option: str) -> str:
    """Draw L1 to the source (left axis) and the first score (right axis) over one option: SVG."""
    points = sorted(points, key=lambda point: point.values[option])
    score = headline(points)
    curves = [
        Curve(name, [(p.values[option], p.figures[name].mean) for p in points if name in p.figures])
        for name in (L1, *([score] if score else []))
    ]
    return draw_plot(curves, "lambda" if option == "threshold" else option)


def headline(points: Sequence[Point]) -> str | None:
    """The score to plot: the first that a judge gave, or else the first that is better higher."""
    names = list(dict.fromkeys(name for point in points for name in point.figures))
    higher = [metric for metric in map(meaning_of, names) if metric.better == "higher"]
    return next((metric.name for metric in sorted(higher, key=lambda m: not m.judged)), None)


def _figures(part: RunFolder) -> dict[str, Figure]:
    by_metric: dict[str, list[Score]] = {}
    for score in part.scores().values():
        by_metric.setdefault(score.metric, []).append(score)
    return {name: _figure(name, scores) for name, scores in by_metric.items()}


def _figure(name: str, scores: Sequence[Score]) -> Figure:
    column = Column.of(scores, meaning_of(name).worst)
    values = column.finite.values
    mean = float(np.mean(values)) if len(values) else None
    return Figure(mean, len(scores), column.failed, column.not_applicable)
