"""Progress of long runs: a bar on a terminal, else a line now and then."""

import sys
import time
from collections import deque
from contextlib import ExitStack
from typing import Any

from .console import progress_bar, say

_EVERY = 30.0  # seconds between lines
_RECENT = 50  # items that the rate is taken from


class Meter:
    """A callback (label, done, total, failed) for `run_benchmark`."""

    def __init__(self) -> None:
        self._stack, self._bar = ExitStack(), None
        self._label, self._said = "", 0.0
        self._times: deque[float] = deque(maxlen=_RECENT)

    def __enter__(self) -> "Meter":
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = self._stack.enter_context(progress_bar(None, "", unit="item"))
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def __call__(self, label: str, done: int, total: int, failed: int) -> None:
        if new := label != self._label:
            self._label, self._said = label, time.monotonic()
            self._times.clear()
        self._times.append(time.monotonic())
        if self._bar is not None:
            if new:
                self._bar.reset(total)
            self._bar.set_description_str(f"{label}, {failed} failed" if failed else label)
            self._bar.update(done - self._bar.n)
        elif done == total or self._times[-1] - self._said > _EVERY:
            self._said = self._times[-1]
            say(f"{label}: {self._line(done, total, failed)}")

    def _line(self, done: int, total: int, failed: int) -> str:
        parts = [f"{done} of {total}"] + [f"{failed} failed"] * bool(failed)
        took = self._times[-1] - self._times[0]
        if took > 0 and done < total:
            rate = (len(self._times) - 1) / took
            parts += [f"{rate:.2g} per second", f"{_duration((total - done) / rate)} left"]
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
