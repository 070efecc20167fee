"""A stage being trained: one optimizer step, the moving average, saving and restoring."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, EditMGTError, InputError
from .optimizers import KEPT, build_optimizers
from .options import LoopOptions
from .parallel import (
    ONE,
    World,
    accumulating,
    full,
    gathered_weights,
    laid_out_like,
    plain_weights,
    split,
    wrapped,
)
from .resume import copy_group, how_resumed, some
from .stage import Stage
from .state import prune, read_record, read_tensors, saved_steps, write_progress, write_state

EARLY = 10  # steps over which the average's decay rises


@dataclass(frozen=True)
class StepFigures:
    """What one optimizer step measured.

    Attributes:
        shown: loss and the stage's figures over the global batch, left on the device, since reading
            them waits for it.
        gradient: norm before clipping. waited: seconds spent on reading and preparing samples.
    """

    shown: dict[str, Tensor]
    gradient: Tensor
    waited: float


@dataclass(frozen=True)
class Layout:
    """How a run is computed, which changes its results by rounding only."""

    processes: int = 1
    micro_batch: int = 0
    device: str = "cpu"
    parallel: str = "ddp"


class Run:
    """A stage being trained: weights, their average, optimizer state and step count.

    Args:
        folder: where `save` writes; a state saved there is restored.
        world: the processes that train together.
        parallel: how, out of `parallel.PARALLEL`.

    Raises:
        InputError: a batch that the processes cannot share.
        CheckpointError: a state that is broken, or belongs to another run.
    """

    def __init__(
        self, stage: Stage, options: LoopOptions, folder: Path, world: World = ONE,
        parallel: str = "ddp",
    ) -> None:  # fmt: skip
        self.stage, self.options, self.folder, self.world = stage, options, folder, world
        self.layout = Layout(world.size, options.micro_batch, world.device.type, parallel)
        self.step, self.resumed = 0, "from the start"
        _require_shares(options.batch, world.size, parallel)
        if getattr(stage, "whole_batch", False) and 0 < options.micro_batch < options.batch:
            raise InputError(
                f"micro_batch is {options.micro_batch}, but this stage needs its whole batch at "
                "once; use 0"
            )
        self.model = wrapped(stage.modules, stage.loss, world, parallel)
        named = stage.modules.named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.kept = self.parameters | _saved_buffers(stage.modules)
        self.optimizers = build_optimizers(self.parameters, options.optimizer)
        floating = {n: t for n, t in self.kept.items() if t.is_floating_point()}
        self.averages = {n: t.detach().clone() for n, t in floating.items()}
        if states := saved_steps(folder):
            self._restore(list(states.values())[-1])

    # --- one step ---

    def advance(self) -> StepFigures:
        """Take one optimizer step."""
        o, world = self.options, self.world
        self._set_rates()
        began = time.monotonic()
        numbers = world.part(range(self.step * o.batch, (self.step + 1) * o.batch))
        parts = [self.stage.prepare(part) for part in self._micro_batches(numbers)]
        counts = world.total(sum(part.counts.cpu() for part in parts))
        waited = time.monotonic() - began
        shares = []
        for part in parts:
            with accumulating(self.model, last=part is parts[-1]):
                loss, figures = self.model(part, counts)
                (loss * world.size).backward()  # gradients are averaged over processes
            shares.append({"loss": loss.detach(), **figures})
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), o.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.stage.after_step()
        self._average()
        return StepFigures(_summed(shares, world), full(norm), waited)

    def _set_rates(self) -> None:
        factor = self.options.schedule(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["plateau"] * factor

    def _micro_batches(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        size = self.options.micro_batch or len(numbers)
        return split(numbers, math.ceil(len(numbers) / size))

    @torch.no_grad()
    def _average(self) -> None:
        # Shorter at first, or the initial weights would linger in the average.
        decay = min(self.options.average, self.step / (self.step + EARLY))
        old = list(self.averages.values())
        torch._foreach_lerp_(old, [self.kept[n].detach() for n in self.averages], 1 - decay)

    def whole(self) -> AbstractContextManager[None]:
        """Have all weights on every process, to compute with."""
        return gathered_weights(self.model)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averaged weights in place of the trained ones."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def export(self, action: Callable[[], Any]) -> None:
        """Run `action` on the first process, with the averaged weights as plain tensors there."""
        with self.averaged(), plain_weights(self.model, self.world):
            self.world.on_first(action)

    @torch.no_grad()
    def _swap(self) -> None:
        # One tensor at a time: a second copy of all weights may not fit.
        for name, average in self.averages.items():
            trained = self.kept[name].detach().clone()
            self.kept[name].copy_(average)
            average.copy_(trained)

    # --- the saved state ---

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a saved state to go on."""
        return {
            "stage": type(self.stage).__name__,
            "batch": self.options.batch,
            "data": getattr(self.stage, "fingerprint", ""),
            "optimizers": [type(o).__name__ for o in self.optimizers],
        }

    def save(self) -> None:
        """Write everything needed to resume; then delete what need not be kept.

        Raises EditMGTError if the processes' weights have drifted apart.
        """
        o = self.options
        self._require_agreement()
        states = {n: s.state.get(p, {}) for s in self.optimizers for n, p in self._of(s)}
        moments = {f"{k}.{n}": t for n, state in states.items() for k, t in state.items()}
        live = {"weight": self.kept, "average": self.averages, "optimizer": moments}
        groups = {name: self._collected(tensors) for name, tensors in live.items()}
        record = {"identity": self.identity, "layout": asdict(self.layout), "options": asdict(o)}

        def write() -> None:
            write_state(self.folder, self.step, groups, record)
            write_progress(self.folder, self.step, o.steps)
            prune(self.folder, o.keep_last, o.keep_every)

        self.world.on_first(write)

    def _require_agreement(self) -> None:
        if self.layout.parallel == "fsdp":  # each has weights of its own
            return
        total = sum(p.detach().double().sum() for p in self.parameters.values())
        totals = self.world.gathered(float(total))
        if len(set(totals)) > 1:
            raise EditMGTError(
                f"step {self.step}: the processes no longer have the same weights (sums {totals}); "
                "resume from the state before"
            )

    def _collected(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU of the first process."""
        whole = {}
        for name, tensor in tensors.items():
            collected = full(tensor.detach())
            if self.world.first:
                whole[name] = collected.cpu()
        return whole

    def _of(self, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one optimizer."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [(n, p) for n, p in self.parameters.items() if id(p) in owned]

    def _restore(self, path: Path) -> None:
        record = self.world.on_first(lambda: read_record(path))
        for key, now in self.identity.items():
            if record["identity"].get(key) != now:
                saved = record["identity"].get(key)
                raise CheckpointError(
                    f"{path} was saved with {key} {saved!r}, this run has {now!r}; keep it as it "
                    "was (data: the samples, and the tokenizer that makes their tokens), or train "
                    "into another folder"
                )
        with torch.no_grad():
            copy_group(path, "weight", self.kept)
            copy_group(path, "average", self.averages)
            self._restore_optimizers(dict(read_tensors(path, "optimizer")), path)
        self.step = record["step"]
        self.resumed = how_resumed(path, record, asdict(self.layout), asdict(self.options))

    def _restore_optimizers(self, saved: dict[str, Tensor], path: Path) -> None:
        for optimizer in self.optimizers:
            keys = KEPT[type(optimizer)]
            for name, parameter in self._of(optimizer):
                if f"{keys[-1]}.{name}" not in saved:  # it never had a gradient
                    continue
                if missing := [k for k in keys if f"{k}.{name}" not in saved]:
                    raise CheckpointError(f"{path} lacks {missing[0]}.{name} of the optimizer")
                state = {k: saved.pop(f"{k}.{name}") for k in keys}
                optimizer.state[parameter] = {
                    k: t if k == "step" else laid_out_like(t, parameter) for k, t in state.items()
                }
        if saved:
            raise CheckpointError(f"{path} has surplus optimizer state: {some(saved)}")


def _require_shares(batch: int, processes: int, parallel: str) -> None:
    if batch < processes or parallel == "fsdp" and batch % processes:
        most = batch if parallel == "ddp" else math.gcd(batch, processes)
        raise InputError(
            f"batch {batch} cannot be shared by {processes} processes; use a multiple of "
            f"{processes}, or {most} processes"
        )


def _saved_buffers(modules: nn.Module) -> dict[str, Tensor]:
    names = modules.state_dict().keys()
    return {name: buffer for name, buffer in modules.named_buffers() if name in names}


def _summed(shares: Sequence[dict[str, Tensor]], world: World) -> dict[str, Tensor]:
    """Add up what micro-batches and processes measured."""
    names = list(shares[0])
    stacked = torch.stack([torch.stack([s[n].float() for n in names]) for s in shares])
    return dict(zip(names, world.total(stacked.sum(dim=0)), strict=True))
