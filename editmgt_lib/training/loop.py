"""The training loop every stage shares: optimise, average, checkpoint, resume, show.

Everything random in a step comes from generators seeded by (seed, step), so a resumed run repeats an
uninterrupted one bit for bit on the CPU.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import atomic_path, atomic_write_json

STATE = "state.safetensors"
PROGRESS = "progress.json"


@dataclass(frozen=True)
class LoopOptions:
    """One stage's optimisation.

    Attributes:
        steps: optimiser steps in all.
        batch: samples per step.
        learning_rate: its plateau; linear warm-up before, linear cool-down to zero after.
        warmup, cooldown: steps of each.
        average: decay of the moving average of the weights, which is what gets exported.
        clip: largest gradient norm.
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

    def rate(self, step: int) -> float:
        """Learning rate of a step: warm-up, plateau, cool-down."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return self.learning_rate * min(rise, fall)


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one training step."""

    data: np.random.Generator
    masks: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> "StepRandom":
        """Generators that depend on (seed, step) alone."""
        data = np.random.default_rng([seed, step])
        return cls(data, torch.Generator().manual_seed(int(data.integers(2**62))))


class Stage(Protocol):
    """What the loop needs from a stage."""

    modules: nn.ModuleDict

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch and figures for the progress bar."""

    def after_step(self, step: int) -> None:
        """Anything to do once the weights moved."""

    def sheet(self, path: Path) -> None:
        """Draw a picture of what the stage can do now."""

    def export(self, folder: Path) -> None:
        """Write the trained parts in the published layout."""


@dataclass
class Run:
    """A stage under training: weights, their average, optimiser state and the step count."""

    stage: Stage
    options: LoopOptions
    folder: Path
    step: int = 0
    averages: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        o = self.options
        self.parameters = dict(self.stage.modules.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), o.learning_rate, o.betas, weight_decay=o.weight_decay
        )
        self.averages = {n: t.detach().clone() for n, t in self._weights().items()}
        if (self.folder / PROGRESS).exists():
            self._restore()

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
        self.stage.after_step(self.step)
        self._average()
        return {"loss": loss.item(), **figures}

    @torch.no_grad()
    def _average(self) -> None:
        # An average over fewer steps at first, or the initial weights would linger in it.
        decay = min(self.options.average, self.step / (self.step + 10))
        weights = self._weights()
        old = list(self.averages.values())
        torch._foreach_lerp_(old, [weights[n] for n in self.averages], 1 - decay)

    def save(self) -> None:
        """Write everything needed to go on, replacing the state before it."""
        from safetensors.torch import save_file

        tensors = {f"weight.{n}": t for n, t in self.stage.modules.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.averages.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        self.folder.mkdir(parents=True, exist_ok=True)
        clones = {n: t.detach().contiguous().clone() for n, t in tensors.items()}
        with atomic_path(self.folder / STATE) as path:
            save_file(clones, str(path), metadata={"step": str(self.step)})
        atomic_write_json(self.folder / PROGRESS, {"step": self.step, "steps": self.options.steps})

    def _restore(self) -> None:
        from safetensors import safe_open

        path = self.folder / STATE
        if not path.exists():
            raise CheckpointError(f"{self.folder} has {PROGRESS} but no {STATE}; remove it")
        with safe_open(str(path), "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        part = _grouped(tensors)
        self.stage.modules.load_state_dict(part["weight"])
        self.averages = {n: part["average"][n] for n in self.averages}
        for name, parameter in self.parameters.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {k: part[f"optimizer.{k}"][name] for k in keys}

    def with_averages(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the averaged weights, then put the trained ones back."""
        kept = {n: t.clone() for n, t in self.stage.modules.state_dict().items()}
        try:
            self.stage.modules.load_state_dict(kept | self.averages)
            return action()
        finally:
            self.stage.modules.load_state_dict(kept)


def _grouped(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group == "optimizer":
            key, _, rest = rest.partition(".")
            group = f"optimizer.{key}"
        groups.setdefault(group, {})[rest] = tensor
    return groups


def train(
    stage: Stage, options: LoopOptions, folder: Path, *, name: str, minutes: float | None = None
) -> Run:
    """Train to the end, or for `minutes`, going on from what `folder` holds.

    Raises:
        CheckpointError: the folder's state cannot be read.
    """
    from tqdm import tqdm

    run = Run(stage, options, folder)
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    smooth: dict[str, float] = {}
    with tqdm(total=options.steps, initial=run.step, desc=name, mininterval=5) as bar:
        while run.step < options.steps and time.monotonic() < deadline:
            for key, value in run.advance().items():
                smooth[key] = 0.98 * smooth.get(key, value) + 0.02 * value
            bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            bar.update()
            last = run.step == options.steps
            if last or run.step % options.sheet_every == 0:
                picture = folder / f"sheet-{run.step:06d}.png"
                run.with_averages(lambda p=picture: stage.sheet(p))
            if last or run.step % options.checkpoint_every == 0:
                run.save()
    run.save()
    return run
