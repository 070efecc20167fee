"""The training loop every stage shares: optimise, average, save, resume, show.

Everything random in a step comes from generators seeded by (seed, step), so on the CPU a resumed
run repeats an uninterrupted one bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import require_number
from ..errors import CheckpointError, InputError
from .interrupts import deferred_interrupt
from .state import Groups, read_state, write_state

if TYPE_CHECKING:
    from tqdm import tqdm

EARLY = 10  # steps over which the average's decay rises
SHOWN = 10  # steps from one to the next whose figures are read


@dataclass(frozen=True)
class LoopOptions:
    """One stage's optimisation. Raises InputError.

    Attributes:
        steps: optimiser steps in all, 1 or more.
        batch: samples per step, 1 or more.
        learning_rate: its plateau, above 0; linear warm-up before, linear cool-down to 0 after.
        muon: plateau for the matrices inside transformer blocks, which Muon then moves instead of
            AdamW (twice the progress per step at these sizes); 0 leaves them to AdamW.
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
    muon: float = 0.0
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
        for name in ("weight_decay", "muon"):
            require_number(name, getattr(self, name), 0)
        require_number("average", self.average, 0, 1)

    def schedule(self, step: int) -> float:
        """Share of the plateau, 0..1, that learning rates have at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return min(rise, fall)


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

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch, and figures for the progress bar: numbers, left on the device."""

    def after_step(self) -> None:
        """Anything to do once the weights moved."""

    def sheet(self, path: Path) -> None:
        """Draw a picture of what the stage can do now."""

    def export(self, folder: Path) -> None:
        """Write the trained parts in the published layout."""


# The layers that embed time and pooled text see large inputs: at the full rate a step of AdamW
# moves their output by more than its size, until all is negative and SiLU lets nothing through.
CONDITIONING, CONDITIONING_RATE = ("time_text_embed.", "cond_embed."), 0.05

# What an optimiser keeps of a parameter.
KEPT = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq")}
if hasattr(torch.optim, "Muon"):
    KEPT[torch.optim.Muon] = ("momentum_buffer",)


def build_optimizers(
    parameters: dict[str, nn.Parameter], options: LoopOptions
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices inside blocks where `options.muon` asks for it.

    Raises InputError where this torch has no Muon.
    """
    o = options
    if o.muon and not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon optimiser; install torch >= 2.9")
    inside = {n for n, p in parameters.items() if o.muon and _is_hidden_matrix(n, p)}
    slow = [p for n, p in parameters.items() if any(part in n for part in CONDITIONING)]
    apart = {id(p) for p in slow}
    rest = [p for n, p in parameters.items() if n not in inside and id(p) not in apart]
    paced = ((rest, o.learning_rate), (slow, CONDITIONING_RATE * o.learning_rate))
    groups = [{"params": p, "lr": rate, "plateau": rate} for p, rate in paced if p]
    adam = torch.optim.AdamW(groups, o.learning_rate, o.betas, weight_decay=o.weight_decay)
    if not inside:
        return [adam]
    hidden = [p for n, p in parameters.items() if n in inside]
    muon = torch.optim.Muon(
        hidden, o.muon, weight_decay=o.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    muon.param_groups[0]["plateau"] = o.muon
    return [adam, muon]


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Matrices between hidden states; a modulation maps a condition to many small vectors."""
    return parameter.ndim == 2 and "_blocks." in name and ".norm" not in name


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
        self.optimizers = build_optimizers(self.parameters, options)
        self.averages = {n: t.detach().clone() for n, t in self._weights().items()}
        if (found := read_state(folder)) is not None:
            self._restore(*found)

    def _weights(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.stage.modules.state_dict().items() if t.is_floating_point()}

    def advance(self) -> dict[str, Tensor]:
        """One optimiser step; returns the figures to show.

        They are left on the device: to read one is to wait for it.
        """
        o = self.options
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["plateau"] * o.schedule(self.step)
        loss, figures = self.stage.loss(StepRandom.of(o.seed, self.step), o.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), o.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.stage.after_step()
        self._average()
        return {"loss": loss.detach(), **figures}

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
        states = {n: o.state.get(p, {}) for o in self.optimizers for n, p in self._of(o)}
        groups["optimizer"] = {f"{k}.{n}": t for n, s in states.items() for k, t in s.items()}
        write_state(self.folder, self.step, self.options.steps, groups)

    def _of(self, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters one optimiser is in charge of."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [(n, p) for n, p in self.parameters.items() if id(p) in owned]

    def _restore(self, step: int, groups: Groups) -> None:
        try:
            self.stage.modules.load_state_dict(groups["weight"])
            for name, average in self.averages.items():
                average.copy_(groups["average"][name])
            kept = groups.get("optimizer", {})
            for optimizer in self.optimizers:
                keys = KEPT[type(optimizer)]
                for name, parameter in self._of(optimizer):
                    if f"{keys[-1]}.{name}" in kept:  # one that never had a gradient has none
                        state = {k: kept[f"{k}.{name}"] for k in keys}
                        optimizer.state[parameter] = {
                            k: t if k == "step" else t.to(parameter.device)
                            for k, t in state.items()
                        }
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
            figures = run.advance()
            if run.step % SHOWN == 1:
                _show(bar, smooth, figures)
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


def _show(bar: "tqdm", smooth: dict[str, float], figures: dict[str, Tensor]) -> None:
    """Put the figures, smoothed over some fifty steps, on the bar."""
    for key, value in figures.items():
        smooth[key] = 0.8 * smooth.get(key, float(value)) + 0.2 * float(value)
    bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
