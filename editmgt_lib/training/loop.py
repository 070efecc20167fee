"""The training loop every stage shares: optimise, average, save, resume, show.

Everything random in a step comes from generators seeded by (seed, step), so on the CPU a resumed
run repeats an uninterrupted one bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import require_number
from ..errors import CheckpointError
from .interrupts import deferred_interrupt
from .state import Groups, read_state, write_state

ADAM = ("step", "exp_avg", "exp_avg_sq")  # what the optimiser keeps of a parameter
EARLY = 10  # steps over which the average's decay rises


@dataclass(frozen=True)
class LoopOptions:
    """One stage's optimisation. Raises InputError.

    Attributes:
        steps: optimiser steps in all, 1 or more.
        batch: samples per step, 1 or more.
        learning_rate: its plateau, above 0; linear warm-up before, linear cool-down to 0 after.
        warmup, cooldown: steps of each.
        weight_decay, betas: of AdamW.
        average: decay of the moving average of the weights, 0..1; the average is what is exported.
        clip: largest gradient norm, above 0.
        seed: of data and masks.
        checkpoint_every, sheet_every: steps between saved states and pictures.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    cooldown: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    average: float = 0.999
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 500
    sheet_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "sheet_every"):
            require_number(name, getattr(self, name), 1, whole=True)
        for name in ("warmup", "cooldown", "seed"):
            require_number(name, getattr(self, name), 0, whole=True)
        for name in ("learning_rate", "clip"):
            require_number(name, getattr(self, name), 1e-12)
        require_number("weight_decay", self.weight_decay, 0)
        require_number("average", self.average, 0, 1)

    def rate(self, step: int) -> float:
        """Learning rate of a step: warm-up, plateau, cool-down."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return self.learning_rate * min(rise, fall)


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one training step; both generators are on the CPU."""

    data: np.random.Generator
    masks: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> "StepRandom":
        """Generators that depend on (seed, step) alone."""
        data = np.random.default_rng([seed, step])
        return cls(data, torch.Generator().manual_seed(int(data.integers(2**62))))


class Stage(Protocol):
    """What the loop needs from a stage; `modules` holds all that a resumed run needs of it."""

    modules: nn.ModuleDict

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch and figures for the progress bar."""

    def after_step(self) -> None:
        """Anything to do once the weights moved."""

    def sheet(self, path: Path) -> None:
        """Draw a picture of what the stage can do now."""

    def export(self, folder: Path) -> None:
        """Write the trained parts in the published layout."""


class Run:
    """A stage under training: its weights, their average, optimiser state and step count.

    Args:
        folder: where `save` writes; a state found there is restored.

    Raises:
        CheckpointError: a state that cannot be read or belongs to another network.
    """

    def __init__(self, stage: Stage, options: LoopOptions, folder: Path) -> None:
        self.stage, self.options, self.folder = stage, options, folder
        self.step = 0
        named = stage.modules.named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            options.learning_rate,
            options.betas,
            weight_decay=options.weight_decay,
        )
        self.averages = {n: t.detach().clone() for n, t in self._weights().items()}
        if (found := read_state(folder)) is not None:
            self._restore(*found)

    def _weights(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.stage.modules.state_dict().items() if t.is_floating_point()}

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the figures to show."""
        o = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = o.rate(self.step)
        loss, figures = self.stage.loss(StepRandom.of(o.seed, self.step), o.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), o.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.stage.after_step()
        self._average()
        return {"loss": loss.item(), **figures}

    @torch.no_grad()
    def _average(self) -> None:
        # An average over fewer steps at first, or the initial weights would linger in it.
        decay = min(self.options.average, self.step / (self.step + EARLY))
        weights = self._weights()
        old = list(self.averages.values())
        torch._foreach_lerp_(old, [weights[n] for n in self.averages], 1 - decay)

    def save(self) -> None:
        """Write everything needed to go on, replacing the state before it."""
        groups: Groups = {"weight": self.stage.modules.state_dict(), "average": self.averages}
        states = {n: self.optimizer.state.get(p, {}) for n, p in self.parameters.items()}
        groups["optimizer"] = {f"{k}.{n}": s[k] for n, s in states.items() for k in ADAM if s}
        write_state(self.folder, self.step, self.options.steps, groups)

    def _restore(self, step: int, groups: Groups) -> None:
        try:
            self.stage.modules.load_state_dict(groups["weight"])
            for name, average in self.averages.items():
                average.copy_(groups["average"][name])
            kept = groups.get("optimizer", {})
            for name, parameter in self.parameters.items():
                if f"step.{name}" in kept:  # a parameter that never had a gradient has none
                    moments = {k: kept[f"{k}.{name}"].to(parameter.device) for k in ADAM[1:]}
                    self.optimizer.state[parameter] = {"step": kept[f"step.{name}"], **moments}
        except (RuntimeError, KeyError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the state in {self.folder} is of another recipe ({reason}); train into another "
                "folder, or remove this one to start anew"
            ) from error
        self.step = step

    def with_averages(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the averaged weights, then put the trained ones back."""
        kept = {n: t.clone() for n, t in self.stage.modules.state_dict().items()}
        try:
            self.stage.modules.load_state_dict(kept | self.averages)
            return action()
        finally:
            self.stage.modules.load_state_dict(kept)


def train(run: Run, *, name: str, minutes: float | None = None) -> None:
    """Train to the end, or for `minutes`, going on from the step the run is at.

    The first Ctrl-C ends the step and saves before it raises KeyboardInterrupt.
    """
    from tqdm import tqdm

    o, stage = run.options, run.stage
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    smooth: dict[str, float] = {}
    saved = run.step
    with (
        deferred_interrupt() as interrupted,
        tqdm(total=o.steps, initial=run.step, desc=name, mininterval=5) as bar,
    ):
        while run.step < o.steps and time.monotonic() < deadline and not interrupted():
            for key, value in run.advance().items():
                smooth[key] = 0.98 * smooth.get(key, value) + 0.02 * value
            bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            bar.update()
            last = run.step == o.steps
            if last or run.step % o.sheet_every == 0:
                picture = run.folder / f"sheet-{run.step:06d}.png"
                run.with_averages(lambda p=picture: stage.sheet(p))
            if last or run.step % o.checkpoint_every == 0:
                run.save()
                saved = run.step
        if run.step > saved:
            run.save()
    if interrupted():
        raise KeyboardInterrupt
