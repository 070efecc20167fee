"""Random numbers of a sampling run, always drawn on the CPU, and the token draw."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError

_PLAIN: Mapping[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults


class StepNoise(NamedTuple):
    """tokens: uniform [B, HW] or exponential [B, HW, V]; ranking: uniform [B, HW]. Float32, CPU."""

    tokens: Tensor
    ranking: Tensor


class SharedNoise:
    """One generator for the whole batch: with "race" the published layout at any batch size."""

    def __init__(self, generator: torch.Generator, draw: str = "race") -> None:
        self._generator, self._draw = generator, draw

    def draw(self, batch: int, positions: int, codes: int, last: bool) -> StepNoise:
        """Numbers of the next step; the last step of a run draws none for the ranking (zeros)."""
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


class ItemNoise:
    """One CPU generator per item: the same numbers for item k in any batch, on any device."""

    def __init__(self, seeds: Sequence[int], draw: str = "inverse") -> None:
        self._items = [SharedNoise(torch.Generator("cpu").manual_seed(s), draw) for s in seeds]

    def draw(self, batch: int, positions: int, codes: int, last: bool) -> StepNoise:
        """As SharedNoise.draw; InputError unless there is one seed per item."""
        if batch != len(self._items):
            raise InputError(f"noise has {len(self._items)} seeds for {batch} items; give as many")
        each = [item.draw(1, positions, codes, last) for item in self._items]
        return StepNoise(*(torch.cat(parts) for parts in zip(*each, strict=True)))


def draw_tokens(probs: Tensor, noise: Tensor) -> Tensor:
    """One token per row of probs [M, V]: int64 [M].

    noise: uniform [M], inverse cumulative sum; or exponential [M, V], race argmax(p / q).
    """
    if noise.ndim == probs.ndim:
        return (probs / noise).argmax(-1)
    upto = probs.cumsum(-1)
    # A share of the row's own sum, and strictly above it: a token of probability 0 is never met.
    goal = noise[:, None] * upto[:, -1:]
    return torch.searchsorted(upto, goal, right=True)[:, 0].clamp(max=probs.shape[-1] - 1)
