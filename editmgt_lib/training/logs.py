"""What a run shows and writes while it trains: a progress bar, JSON lines, TensorBoard if asked."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

LOG = "log.jsonl"
# Figures of a log line that the bar leaves out, besides those of single ranges of mask ratios.
UNSHOWN = ("learning_rate", "gradient_norm", "clipped", "data_wait", "utilisation", "memory_gb")


class Log:
    """Lines of plain values in `folder/log.jsonl`; every line has the step and the time.

    A resumed run appends. With `folder` None nothing is written, as on all processes but the first.

    Raises InputError if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False) -> None:
        self._file = self._board = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise InputError(
                    "tensorboard is not installed; install it, or set engine.tensorboard to false"
                ) from error
            self._board = SummaryWriter(str(folder / "tensorboard"))
        self._file = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        for file in (self._file, self._board):
            if file is not None:
                file.close()

    def event(self, step: int, text: str) -> None:
        """Note something that happens once."""
        self._write({"step": step, "event": text})

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Note measured values."""
        self._write({"step": step, **figures})
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            rounded = {k: _rounded(v) for k, v in line.items()} | {"time": round(time.time(), 1)}
            self._file.write(json.dumps(rounded) + "\n")
            self._file.flush()


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)  # JSON has no NaN


class Bar:
    """Progress bar with time left and smoothed figures; shows nothing unless `visible`."""

    def __init__(self, name: str, step: int, steps: int, visible: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=steps, initial=step, desc=name, mininterval=5, disable=not visible)
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def show(self, figures: Mapping[str, float]) -> None:
        """Show figures, smoothed over about five calls."""
        for key, value in figures.items():
            if key not in UNSHOWN and " " not in key:
                self._smooth[key] = 0.8 * self._smooth.get(key, value) + 0.2 * value
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in self._smooth.items()}, refresh=False)
