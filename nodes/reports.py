"""What a run says of itself on its node. Plain values and tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..editmgt_lib.pictures.canvas import Canvas, Tokens
from ..editmgt_lib.sampling.loop import StepEvent
from ..editmgt_lib.sampling.options import SamplingOptions


@dataclass(frozen=True)
class Measured:
    """What came of a run: seconds, and shares 0..1 of the pictures' own tokens."""

    seconds: float
    held: float
    changed: float


class Watch:
    """Remembers which tokens each item held last.

    fixed: tokens outside a region, bool [B, rows, cols], or None.
    """

    def __init__(self, fixed: Tensor | None) -> None:
        self._fixed, self._held = fixed, {}

    def see(self, event: StepEvent) -> None:
        """Take note of a step."""
        self._held[event.item] = event.held

    def shares(self, before: Tokens, after: Tokens) -> tuple[float, float]:
        """Held and changed, of the tokens that lie on a picture."""
        held = torch.zeros_like(before.ids, dtype=torch.bool, device="cpu")
        if self._held and all(item is not None for item in self._held.values()):
            held |= torch.cat([item.cpu() for item in self._held.values()])
        if self._fixed is not None:
            held |= self._fixed.cpu()
        changed = before.ids.cpu() != after.ids.cpu()
        return tuple(_share(cells, before.canvas) for cells in (held, changed))


def _share(cells: Tensor, canvas: Canvas) -> float:
    return float(cells[canvas.covered.cpu()].float().mean())


def sampling_report(options: SamplingOptions, batch: int, place: str, found: Measured) -> str:
    """Short lines: what a run used, what came of it, and where."""
    seeds = options.seeds(batch)
    seed = f"seed {seeds[0]}" if batch == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    used = f"{options.steps} steps, guidance {options.guidance:g}, {seed}"
    came = f"{found.seconds:.1f} s, {found.held:.0%} held, {found.changed:.0%} changed"
    return f"{used}\n{came}\n{place}"


def foreign_numbers(options: SamplingOptions, own: SamplingOptions) -> tuple[str, ...]:
    """A note on a sampler left as published, for a checkpoint that has other numbers."""
    published, used, stated = map(_numbers, (SamplingOptions(), options, own))
    if used != published or stated == published:
        return ()
    steps, guidance, strength = stated
    return (
        f"these are the published checkpoint's numbers; this one's own are {steps} steps, "
        f"guidance {guidance:g}, strength {strength:g} (0 takes them)",
    )


def _numbers(options: SamplingOptions) -> tuple[int, float, float]:
    return options.steps, options.guidance, options.strength
