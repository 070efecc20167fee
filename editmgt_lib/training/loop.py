"""The training loop of all stages: advance, log, show, validate, save, stop."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping

import torch

from ..errors import EditMGTError
from .curves import draw_curves
from .interrupts import deferred_signals, stopped
from .logs import LOG, Bar, Log
from .run import Run, StepFigures

WINDOW = 50  # log lines whose mean loss the gate compares

Validate = Callable[[], Mapping[str, float]]


class DivergedError(EditMGTError):
    """Training diverged; the states saved before are sound."""


def train(
    run: Run,
    *,
    name: str,
    minutes: float | None = None,
    validate: Validate | None = None,
    tensorboard: bool = False,
    fastest: float | None = None,
) -> None:
    """Train to the end, or for `minutes`, from the run's current step; then save.

    The first Ctrl-C or SIGTERM, on any process, finishes the step and saves on all; then it raises
    KeyboardInterrupt or SystemExit.

    validate: measures the stage's networks; called by all processes, for the trained weights and
        for their average.
    fastest: seconds of a step if the device multiplied all the time, to log its utilisation.

    Raises DivergedError when the loss is not finite, or beyond the gate.
    """
    o, world, saved = run.options, run.world, run.step
    deadline = time.monotonic() + 60 * minutes if minutes else math.inf
    with (
        deferred_signals() as signalled,
        Log(run.folder if world.first else None, tensorboard) as log,
        Bar(name, run.step, o.steps, visible=world.first) as bar,
    ):
        log.event(run.step, f"{name}: {run.resumed}, {o.steps} steps in all")
        watch = Watch(run, fastest)
        while run.step < o.steps:
            if world.any(bool(signalled()) or time.monotonic() >= deadline):
                break
            measured = run.advance()
            bar.advance()
            watch.note(measured)
            due = {k: _due(run, getattr(o, f"{k}_every")) for k in ("log", "sheet", "checkpoint")}
            if due["log"] or run.step == 1:
                figures = watch.figures()
                log.figures(run.step, figures)
                bar.show(figures)
            if validate and _due(run, o.validate_every):
                log.figures(run.step, _validated(run, validate))
            if due["sheet"]:
                _draw(run)
            if due["checkpoint"]:
                _save(run, watch)
                saved = run.step
        if run.step > saved:
            _save(run, watch)
        number = max(world.gathered(signalled()))
        log.event(run.step, _ending(run, number))
    if number:
        raise stopped(number)


def _due(run: Run, every: int) -> bool:
    return run.step == run.options.steps or run.step % every == 0


def _ending(run: Run, number: int) -> str:
    if run.step == run.options.steps:
        return "finished"
    return f"stopped by {f'signal {number}' if number else 'the time limit'}; state saved"


def _save(run: Run, watch: "Watch") -> None:
    watch.require_finite()
    run.save()
    run.world.on_first(lambda: draw_curves(run.folder / LOG, run.folder / "curves.png"))


def _draw(run: Run) -> None:
    picture = run.folder / f"sheet-{run.step:06d}.png"
    with run.averaged(), run.whole():
        run.world.on_first(lambda: run.stage.sheet(picture))


def _validated(run: Run, validate: Validate) -> dict[str, float]:
    with run.whole():
        figures = {f"validation/{k}": float(v) for k, v in validate().items()}
    with run.averaged(), run.whole():
        return figures | {f"validation-average/{k}": float(v) for k, v in validate().items()}


class Watch:
    """Looks over a run: speed, clipping, and whether the loss stays sound."""

    def __init__(self, run: Run, fastest: float | None = None) -> None:
        self.run, self.fastest = run, fastest
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._lowest = math.inf
        self._latest: StepFigures | None = None
        self._start()

    def _start(self) -> None:
        self._since, self._steps, self._waited = time.monotonic(), 0, 0.0
        self._clipped = torch.zeros((), device=self.run.world.device)

    def note(self, measured: StepFigures) -> None:
        """Take in a step, without waiting for the device unless that is the CPU."""
        self._latest = measured
        self._steps += 1
        self._waited += measured.waited
        self._clipped += measured.gradient > self.run.options.optimizer.clip
        if self.run.world.device.type == "cpu":
            self.require_finite()

    def require_finite(self) -> None:
        """Raise DivergedError if the latest loss or gradient is NaN or infinite."""
        loss, gradient = float(self._latest.shown["loss"]), float(self._latest.gradient)
        if not math.isfinite(loss) or not math.isfinite(gradient):
            raise DivergedError(
                f"step {self.run.step}: loss is {loss}, gradient norm {gradient}; the state saved "
                "last is sound: resume it with a lower learning_rate or clip"
            )

    def figures(self) -> dict[str, float]:
        """Values of a log line; speeds and shares are since the line before."""
        self.require_finite()
        run, latest = self.run, self._latest
        values = {name: float(value) for name, value in latest.shown.items()}
        self._pass_gate(values["loss"])
        seconds = max(time.monotonic() - self._since, 1e-9)
        rates = [group["lr"] for o in run.optimizers for group in o.param_groups]
        values |= {
            "learning_rate": max(rates),
            "gradient_norm": float(latest.gradient),
            "clipped": float(self._clipped) / self._steps,
            "data_wait": min(1.0, self._waited / seconds),
            "samples_per_second": self._steps * run.options.batch / seconds,
        }
        if self.fastest is not None:
            values["utilisation"] = self.fastest * self._steps / seconds
        if run.world.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(run.world.device) / 1e9
        self._start()
        return values

    def _pass_gate(self, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) < WINDOW:
            return
        mean, gate = sum(self._losses) / WINDOW, self.run.options.gate
        self._lowest = min(self._lowest, mean)
        if gate and mean > gate * self._lowest:
            raise DivergedError(
                f"step {self.run.step}: the mean loss is {mean:.3g}, more than gate {gate:g} times "
                f"{self._lowest:.3g}, its lowest; resume an earlier state with a lower "
                "learning_rate, or raise the gate"
            )
