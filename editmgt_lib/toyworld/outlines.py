"""Outlines of plane figures as signed distances, negative inside.

A figure is a function of coordinates (x, y), y down, in any unit. Sums, products and square roots
are rounded the same on every processor; nothing here needs more.
"""

from collections.abc import Callable, Sequence

import numpy as np

Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]
Point = tuple[float, float]


def circle(cx: float, cy: float, radius: float) -> Figure:
    """Disc."""
    return lambda x, y: np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Figure:
    """Exact on the outline, and nearly so beside it."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = (x - cx) / rx, (y - cy) / ry
        level = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
        return level * (level - 1) / np.maximum(slope, 1e-3 / max(rx, ry))

    return distance


def box(cx: float, cy: float, half_width: float, half_height: float, radius: float = 1.5) -> Figure:
    """Rectangle with rounded corners."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = abs(x - cx) - half_width + radius, abs(y - cy) - half_height + radius
        outer = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
        return outer + np.minimum(np.maximum(u, v), 0) - radius

    return distance


def line(radius: float, *points: Point) -> Figure:
    """Thick line through points, with round ends."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pairs = zip(points, points[1:], strict=False)
        return np.sqrt(np.minimum.reduce([_to_segment(x, y, *pair) for pair in pairs])) - radius

    return distance


def polygon(points: Sequence[Point], radius: float = 1.5) -> Figure:
    """Closed polygon grown by `radius`, which rounds its corners."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(x, y)
        inside = np.zeros(x.shape, bool)
        sides = [*zip(points, [*points[1:], points[0]], strict=True)]
        for (ax, ay), (bx, by) in sides:
            if ay != by:
                crossing = ax + (y - ay) * ((bx - ax) / (by - ay))
                inside ^= ((ay > y) != (by > y)) & (x < crossing)
        nearest = np.sqrt(np.minimum.reduce([_to_segment(x, y, *side) for side in sides]))
        return np.where(inside, -nearest, nearest) - radius

    return distance


def union(*figures: Figure, blend: float = 0.0) -> Figure:
    """All figures together; `blend` is how widely they melt into each other."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = figures[0](x, y)
        for figure in figures[1:]:
            other = figure(x, y)
            overlap = np.maximum(blend - abs(total - other), 0)
            total = np.minimum(total, other) - (overlap**2 / (4 * blend) if blend else 0)
        return total

    return distance


def intersection(*figures: Figure) -> Figure:
    """What all figures share."""
    return lambda x, y: np.maximum.reduce([figure(x, y) for figure in figures])


def ring(cx: float, cy: float, radius: float, half_width: float) -> Figure:
    """Circle drawn with a thick line."""
    return lambda x, y: abs(circle(cx, cy, radius)(x, y)) - half_width


def above(level: float) -> Figure:
    """Half plane of all y less than `level`."""
    return lambda x, y: y - level + 0 * x


def strip(cx: float, half_width: float) -> Figure:
    """All y of a range of x."""
    return lambda x, y: abs(x - cx) - half_width + 0 * y


def _to_segment(x: np.ndarray, y: np.ndarray, start: Point, end: Point) -> np.ndarray:
    """Squared distance to a segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    u, v = x - start[0], y - start[1]
    along = np.clip((u * dx + v * dy) / (dx * dx + dy * dy), 0, 1)
    return (u - along * dx) ** 2 + (v - along * dy) ** 2
