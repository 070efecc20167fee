"""Plot a lambda sweep: success and outside error against lambda (paper, Figure 7)."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .plot import nice_step
from .report.toyworld_sweep import Sweep, SweepPoint

_SCALE = 3  # drawn larger, then reduced: PIL's lines are not antialiased
_WIDTH, _HEIGHT = 600, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 84, 72, 62
_INK, _GRID, _PAPER = (38, 42, 50), (228, 231, 236), (255, 255, 255)
_ERROR, _SUCCESS, _ALL = (36, 98, 224), (214, 92, 16), (240, 178, 130)
_RULES = {
    "proposal": "hold by proposal (published code)",
    "restore": "hold by restoring (paper)",
}


def draw_curve(sweep: Sweep) -> Image.Image:
    """Draw one panel of 600 x 400 pixels per hold rule, side by side.

    Left axis: mean absolute error outside the true mask, local edits. Right axis: success of local
    edits and, paler, of all edits. The dotted line marks `Sweep.best`.
    """
    rules = sweep.hold_rules
    picture = Image.new("RGB", (_WIDTH * _SCALE * len(rules), _HEIGHT * _SCALE), _PAPER)
    most = max((point.local_outside or point.outside or 0.0) for point in sweep.points)
    step = nice_step(most / 4)
    top = step * max(1, math.ceil(most / step * 1.02))
    for number, rule in enumerate(rules):
        panel = _Panel(sweep.of(rule), (step, top), sweep.best(rule).threshold)
        picture.paste(panel.draw(_RULES[rule]), (_WIDTH * _SCALE * number, 0))
    return picture.resize((_WIDTH * len(rules), _HEIGHT), Image.Resampling.LANCZOS)


class _Panel:
    """One plot; lengths are in pixels of the finished picture."""

    def __init__(
        self, points: Sequence[SweepPoint], error_axis: tuple[float, float], best: float
    ) -> None:
        self.points, self.best = points, best
        self.step, self.top = error_axis
        self.last = max(0.1, math.ceil(points[-1].threshold * 10 - 1e-9) / 10)
        size = (_WIDTH * _SCALE, _HEIGHT * _SCALE)
        self.image = Image.new("RGB", size, _PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def draw(self, title: str) -> Image.Image:
        self._text((_LEFT, 14), title, _INK, 17, "la")
        self._axes()
        x = self._x(self.best)
        for y in range(_TOP, _HEIGHT - _BOTTOM, 7):
            self._line([(x, y), (x, y + 3)], (150, 156, 166), 1)
        self._curve([(p.threshold, p.success) for p in self.points], 1.0, _ALL, 2)
        self._curve([(p.threshold, p.local_success) for p in self.points], 1.0, _SUCCESS, 3)
        outside = [
            (p.threshold, p.outside if p.local_outside is None else p.local_outside)
            for p in self.points
        ]
        self._curve(outside, self.top, _ERROR, 3)
        self._legend()
        return self.image

    def _axes(self) -> None:
        right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        for k in range(round(self.top / self.step) + 1):
            y = self._y(k * self.step / self.top)
            self._line([(_LEFT, y), (right, y)], _GRID, 1)
            self._text((_LEFT - 8, y), f"{k * self.step:.{digits}f}", _ERROR, 13, "rm")
        for k in range(5):
            self._text((right + 8, self._y(k / 4)), f"{25 * k} %", _SUCCESS, 13, "lm")
        for k in range(round(self.last * 10) + 1):
            x = self._x(k / 10)
            self._line([(x, floor), (x, floor + 5)], _INK, 1)
            self._text((x, floor + 8), f"{k / 10:g}", _INK, 13, "ma")
        self._line([(_LEFT, floor), (right, floor)], _INK, 1.5)
        middle = (_LEFT + right) / 2
        self._text((middle, _HEIGHT - 26), "hold threshold lambda", _INK, 14, "ma")
        self._upright((6, (_TOP + floor) / 2), "error outside the edit", _ERROR)
        self._upright((_WIDTH - 26, (_TOP + floor) / 2), "success", _SUCCESS)

    def _legend(self) -> None:
        x = _LEFT
        for text, color in (
            ("outside error", _ERROR),
            ("success, local edits", _SUCCESS),
            ("success, all edits", _ALL),
        ):
            self._line([(x, 50), (x + 20, 50)], color, 3)
            self._text((x + 26, 50), text, _INK, 13, "lm")
            x += 44 + self._font(13).getlength(text) / _SCALE
        self._text((_WIDTH - 8, 22), f"best lambda {self.best:g}", (110, 116, 126), 13, "rm")

    def _curve(
        self,
        values: Sequence[tuple[float, float | None]],
        top: float,
        color: tuple[int, int, int],
        width: float,
    ) -> None:
        known = [(self._x(x), self._y(y / top)) for x, y in values if y is not None]
        if not known:
            return
        self._line(known, color, width)
        for x, y in known:
            radius = 1.4 * width
            box = [(v * _SCALE) for v in (x - radius, y - radius, x + radius, y + radius)]
            self.pen.ellipse(box, fill=color, outline=_PAPER, width=_SCALE)

    def _x(self, threshold: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * threshold / self.last

    def _y(self, share: float) -> float:
        floor = _HEIGHT - _BOTTOM
        return floor - (floor - _TOP) * share

    def _line(self, points: Sequence[tuple[float, float]], color, width: float) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.pen.line(scaled, fill=color, width=round(width * _SCALE), joint="curve")

    def _font(self, size: int) -> ImageFont.ImageFont:
        return ImageFont.load_default(size * _SCALE)

    def _text(self, at: tuple[float, float], text: str, color, size: int, anchor: str) -> None:
        position = (at[0] * _SCALE, at[1] * _SCALE)
        self.pen.text(position, text, fill=color, font=self._font(size), anchor=anchor)

    def _upright(self, at: tuple[float, float], text: str, color) -> None:
        """Draw text that reads upwards, its left edge at x and its middle at y."""
        font = self._font(14)
        left, top, right, bottom = font.getbbox(text)
        label = Image.new("RGB", (int(right - left) + 4, int(bottom) + 4), _PAPER)
        ImageDraw.Draw(label).text((-left, 0), text, fill=color, font=font)
        label = label.rotate(90, expand=True)
        self.image.paste(label, (int(at[0] * _SCALE), int(at[1] * _SCALE - label.height / 2)))
