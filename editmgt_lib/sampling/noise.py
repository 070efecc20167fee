"""Random numbers of a sampling run, always generated on the CPU, and the token draw."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError

_PLAIN: Mapping[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # not torch's defaults


class StepNoise(NamedTuple):
    """tokens: uniform [B, HW] or exponential [B, HW, V]; ranking: uniform [B, HW]."""

    tokens: Tensor
    ranking: Tensor

    def to(self, device: torch.device) -> "StepNoise":
        """The same numbers on a device."""
        return StepNoise(*(part.to(device) for part in self))


class Noise:
    """Numbers of a run's steps, drawn one after the other."""

    def __init__(self, draw: str) -> None:
        self._draw = draw

    def draw(self, batch: int, positions: int, codes: int, last: bool) -> StepNoise:
        """Draw the numbers of the next step, on the CPU."""
        raise NotImplementedError

    def steps(
        self, count: int, batch: int, positions: int, codes: int, device: torch.device
    ) -> Iterator[StepNoise]:
        """The numbers of all steps on a device, in one upload unless they are too many for it."""
        drawn = (self.draw(batch, positions, codes, k == count - 1) for k in range(count))
        if self._draw == "race":  # V numbers for every token
            return (step.to(device) for step in drawn)
        tokens, ranking = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return map(StepNoise, tokens.to(device), ranking.to(device))


class SharedNoise(Noise):
    """One generator for the whole batch; with "race", numbers in the published order."""

    def __init__(self, generator: torch.Generator, draw: str = "race") -> None:
        super().__init__(draw)
        self._generator = generator

    def draw(self, batch: int, positions: int, codes: int, last: bool) -> StepNoise:
        """Draw the numbers of the next step; the last step's ranking draws none (zeros)."""
        shape, generator = (batch, positions), self._generator
        if self._draw == "race":  # order and shape of torch.multinomial's own draw
            tokens = _exponential((*shape, codes), generator)
        else:
            tokens = torch.rand(shape, generator=generator, **_PLAIN)
        if last:
            return StepNoise(tokens, torch.zeros(shape, **_PLAIN))
        return StepNoise(tokens, torch.rand(shape, generator=generator, **_PLAIN))


def _exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """What `Tensor.exponential_` draws on the CPU, of which builds with MKL make other numbers."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    return uniform.neg_().log1p_().neg_().float()


class ItemNoise(Noise):
    """One generator per item: the same numbers for it in any batch, on any device."""

    def __init__(self, seeds: Sequence[int], draw: str = "inverse") -> None:
        super().__init__(draw)
        self._items = [SharedNoise(torch.Generator("cpu").manual_seed(s), draw) for s in seeds]

    def draw(self, batch: int, positions: int, codes: int, last: bool) -> StepNoise:
        """As SharedNoise.draw; InputError unless there is one seed per item."""
        if batch != len(self._items):
            raise InputError(f"noise has {len(self._items)} seeds for {batch} items; give {batch}")
        each = [item.draw(1, positions, codes, last) for item in self._items]
        return StepNoise(*(torch.cat(parts) for parts in zip(*each, strict=True)))


def draw_tokens(probs: Tensor, noise: Tensor) -> Tensor:
    """Draw one token per row of probs [..., V]: int64 [...].

    noise: uniform [...] for the inverse cumulative sum, or exponential [..., V] for argmax(p / q).
    """
    if noise.ndim == probs.ndim:
        return (probs / noise).argmax(-1)
    cumulative = probs.cumsum(-1)
    # Scaled by the row's own sum and searched strictly above: probability 0 is never drawn.
    target = noise[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True)[..., 0].clamp(max=probs.shape[-1] - 1)
