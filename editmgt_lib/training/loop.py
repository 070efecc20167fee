"""The training loop of all stages: optimize, average, save, resume, show.

Random numbers of a step come from generators seeded by (seed, step), so on the CPU a resumed run
equals an uninterrupted one bit for bit.
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
SHOWN = 10  # read the figures every so many steps


@dataclass(frozen=True)
class LoopOptions:
    """Optimization of one stage. Raises InputError.

    Attributes:
        steps: optimizer steps in all, 1 or more.
        batch: samples per step, 1 or more.
        learning_rate: plateau, above 0, after a linear warm-up and before a linear cool-down to 0.
        muon: plateau for matrices inside transformer blocks, which then train with Muon instead of
            AdamW (twice the progress per step at these sizes); 0 trains them with AdamW.
        warmup, cooldown: steps of each.
        weight_decay, betas: of AdamW.
        average: decay of the moving average of the weights, 0..1, which is exported.
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
        """Factor on the learning rates at a step, 0..1."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return min(rise, fall)


@dataclass(frozen=True)
class StepRandom:
    """Random generators of one training step, on the CPU."""

    data: np.random.Generator
    masks: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> "StepRandom":
        """Seed generators from (seed, step)."""
        data = np.random.default_rng([seed, step])
        return cls(data, torch.Generator().manual_seed(int(data.integers(2**62))))


class Stage(Protocol):
    """A stage as the loop sees it; `modules` holds the state a resumed run needs."""

    modules: nn.ModuleDict

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and figures for the progress bar, left on the device."""

    def after_step(self) -> None:
        """Run after each optimizer step."""

    def sheet(self, path: Path) -> None:
        """Draw what the stage can do now."""

    def export(self, folder: Path) -> None:
        """Write the trained parts in the published layout."""


# The layers that embed time and pooled text have large inputs: at the full rate, an AdamW step
# moves their output by more than its size, until it is all negative and SiLU passes nothing.
CONDITIONING, CONDITIONING_RATE = ("time_text_embed.", "cond_embed."), 0.05

# Optimizer state of a parameter.
KEPT = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq")}
if hasattr(torch.optim, "Muon"):
    KEPT[torch.optim.Muon] = ("momentum_buffer",)


def build_optimizers(
    parameters: dict[str, nn.Parameter], options: LoopOptions
) -> list[torch.optim.Optimizer]:
    """Build AdamW, and Muon for matrices inside blocks if `options.muon` is set.

    Raises InputError if this torch has no Muon.
    """
    o = options
    if o.muon and not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon optimizer; install torch >= 2.9")
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
    """Whether a matrix maps hidden states; modulation layers, which map conditions, do not."""
    return parameter.ndim == 2 and "_blocks." in name and ".norm" not in name


class Run:
    """A stage being trained: weights, their average, optimizer state and step count.

    Args:
        folder: where `save` writes; a state saved there is restored.

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
        if (saved := read_state(folder)) is not None:
            self._restore(*saved)

    def _weights(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.stage.modules.state_dict().items() if t.is_floating_point()}

    def advance(self) -> dict[str, Tensor]:
        """Take one optimizer step; returns the figures to show.

        They stay on the device, since reading them waits for it.
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
        # Shorter at first, or the initial weights would linger in the average.
        decay = min(self.options.average, self.step / (self.step + EARLY))
        weights = self._weights()
        old = list(self.averages.values())
        torch._foreach_lerp_(old, [weights[n] for n in self.averages], 1 - decay)

    def save(self) -> None:
        """Write everything needed to resume, replacing the previous state."""
        groups: Groups = {"weight": self.stage.modules.state_dict(), "average": self.averages}
        states = {n: o.state.get(p, {}) for o in self.optimizers for n, p in self._of(o)}
        groups["optimizer"] = {f"{k}.{n}": t for n, s in states.items() for k, t in s.items()}
        write_state(self.folder, self.step, self.options.steps, groups)

    def _of(self, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one optimizer."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [(n, p) for n, p in self.parameters.items() if id(p) in owned]

    def _restore(self, step: int, groups: Groups) -> None:
        try:
            self.stage.modules.load_state_dict(groups["weight"])
            for name, average in self.averages.items():
                average.copy_(groups["average"][name])
            states = groups.get("optimizer", {})
            for optimizer in self.optimizers:
                keys = KEPT[type(optimizer)]
                for name, parameter in self._of(optimizer):
                    if f"{keys[-1]}.{name}" in states:  # not if it never had a gradient
                        state = {k: states[f"{k}.{name}"] for k in keys}
                        optimizer.state[parameter] = {
                            k: t if k == "step" else t.to(parameter.device)
                            for k, t in state.items()
                        }
        except (RuntimeError, KeyError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the state in {self.folder} is of another recipe ({reason}); train into another "
                "folder, or remove this one to start over"
            ) from error
        self.step = step

    def with_averages(self, action: Callable[[], Any]) -> Any:
        """Run `action` with the averaged weights in place of the trained ones."""
        trained = {n: t.clone() for n, t in self.stage.modules.state_dict().items()}
        try:
            self.stage.modules.load_state_dict(trained | self.averages)
            return action()
        finally:
            self.stage.modules.load_state_dict(trained)


def train(run: Run, *, name: str, minutes: float | None = None) -> None:
    """Train to the end, or for `minutes`, from the run's current step.

    The first Ctrl-C finishes the step and saves, then raises KeyboardInterrupt.
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
    """Show the figures, smoothed over about fifty steps."""
    for key, value in figures.items():
        smooth[key] = 0.8 * smooth.get(key, float(value)) + 0.2 * float(value)
    bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
