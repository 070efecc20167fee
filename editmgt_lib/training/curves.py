"""Curves of a run's log as one picture."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import atomic_path

PANELS: Mapping[str, tuple[str, ...]] = {
    "training loss": ("loss", "nll", "new"),
    "validation loss": ("changed_loss", "kept_loss"),
    "predicted right": ("changed_accuracy", "copied"),
    "loss gained from": ("instruction_gap_changed", "reference_gap_kept"),
}
"""Figures of each panel; those of validation are of the averaged weights."""
VALIDATION = "validation-average/"
WIDTH, HEIGHT, LEFT, MARGIN = 420, 260, 52, 30  # pixels
COLORS = ((36, 98, 224), (214, 92, 16), (40, 140, 80))
INK, GRID, PAPER = (38, 42, 50), (228, 231, 236), (255, 255, 255)

Curve = list[tuple[float, float]]


def draw_curves(log: Path, picture: Path) -> None:
    """Draw `PANELS` from JSON lines with a "step" each; a step written again replaces itself.

    Raises InputError for a log that cannot be read.
    """
    from PIL import Image

    curves = read_curves(log)
    panels = {
        title: {n: curves[n] for n in names if curves[n]}
        for title, names in PANELS.items()
        if any(curves[n] for n in names)
    }
    image = Image.new("RGB", (WIDTH * max(1, len(panels)), HEIGHT), PAPER)
    for number, (title, shown) in enumerate(panels.items()):
        image.paste(_panel(title, shown), (WIDTH * number, 0))
    with atomic_path(picture) as temporary:
        image.save(temporary, "PNG")


def read_curves(log: Path) -> dict[str, Curve]:
    """Read (step, value) points of every figure in `PANELS`, in order of steps."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        steps = {name: {} for names in PANELS.values() for name in names}
        for line in lines:
            for name, points in steps.items():
                value = line.get(name, line.get(VALIDATION + name))
                if isinstance(value, int | float) and math.isfinite(value):
                    points[line["step"]] = float(value)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{log} is not the log of a run: {error}") from error
    return {name: sorted(points.items()) for name, points in steps.items()}


def _panel(title: str, curves: Mapping[str, Curve]):
    """One plot; the vertical axis starts at 0, or below where a value is negative."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    points = [point for curve in curves.values() for point in curve]
    first, last = min(s for s, _ in points), max(s for s, _ in points)
    low, high = min(0.0, *(v for _, v in points)), max(1e-6, *(v for _, v in points))
    right, bottom = WIDTH - MARGIN, HEIGHT - MARGIN

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - first) / max(1, last - first)
        up = (point[1] - low) / (high - low)
        return LEFT + across * (right - LEFT), bottom - up * (bottom - 2 * MARGIN)

    for value in _ticks(low, high):
        y = place((first, value))[1]
        pen.line(((LEFT, y), (right, y)), GRID)
        pen.text((LEFT - 6, y), f"{value:.3g}", INK, anchor="rm")
    for step, anchor in ((first, "la"), (last, "ra")):
        pen.text((place((step, low))[0], bottom + 8), f"{step:g}", INK, anchor=anchor)
    pen.text((LEFT, 8), title, INK, anchor="la")
    across = LEFT
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        pen.text((across, 26), name, color, anchor="la")
        across += pen.textlength(name) + 14
        pen.line([place(point) for point in curve], color, 2)
        x, y = place(curve[-1])
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), color)  # a curve of one point shows too
    return image


def _ticks(low: float, high: float) -> Sequence[float]:
    """Four to ten round values between two bounds."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * 8 >= high - low)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
