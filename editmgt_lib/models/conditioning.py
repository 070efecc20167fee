"""Inputs of a run of the transformer besides token ids; see `MaskedTransformer.prepare`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .adapters import NO_UPDATES, BlockUpdates, Updates
from .attention import STRENGTH_SCOPES, Segments


class Segment(NamedTuple):
    """Consecutive rows of a stream, and what a block does to these only.

    modulation: [parts, B, 1, C] of shift, 1 + scale and gate, once or twice.
    updates: of the block's layers, see `adapters`.
    """

    length: int
    modulation: Tensor
    updates: Updates = NO_UPDATES


Modulation = tuple[Segment, ...]  # of a whole stream


class Joined(NamedTuple):
    """Query, key and value layers of a stream as one.

    weight: [3 C, C]; bias: [3 C]; norm: weights of the query and key norms, [2, 1, d].
    """

    weight: Tensor
    bias: Tensor
    norm: Tensor


@dataclass(frozen=True)
class InjectionOptions:
    """How the reference is injected.

    Attributes:
        strength: gamma > 0; 1 adds no bias.
        scope: `"text+image"` (published code) or `"image"` (paper).
        timestep: the reference's fixed timestep; 0 in paper and code.
    """

    strength: float = 1.0
    scope: str = STRENGTH_SCOPES[0]
    timestep: float = 0.0


@dataclass(frozen=True, repr=False)
class Conditioning:
    """The step-independent inputs of one run.

    Attributes:
        text: input of the text stream [B, T, C].
        reference: its part of the image stream [B, R, C]; None for text to image.
        modulations: of every block at every timestep, [S, parts, B, 1, C].
        text_modulations: the same for the text stream of every double block.
        reference_modulations: of every block at the reference's timestep, [parts, B, 1, C].
        rotary: `rotary_table` of text, target and reference, [2, L, d] or [2, B, 1, L, d].
        grid: rows and columns of target positions.
        injection: how the reference is injected.
        updates: low-rank updates of every block.
        joined: by block, see `Block.joined`; None where layers are called one by one.
    """

    text: Tensor
    reference: Tensor | None
    modulations: tuple[Tensor, ...]
    text_modulations: tuple[Tensor, ...]
    reference_modulations: tuple[Tensor, ...]
    rotary: Tensor
    grid: tuple[int, int]
    injection: InjectionOptions
    updates: tuple[BlockUpdates, ...]
    joined: tuple[tuple[Joined, ...] | None, ...]

    def __repr__(self) -> str:
        return f"Conditioning(batch={len(self.text)}, grid={self.grid})"

    @property
    def segments(self) -> Segments:
        """Lengths of text, target and reference."""
        reference = 0 if self.reference is None else self.reference.shape[1]
        return Segments(self.text.shape[1], self.grid[0] * self.grid[1], reference)

    def modulation(self, block: int, step: int, length: int) -> Modulation:
        """Modulation of a stream of `length` tokens, the reference last if there is one."""
        reference, updates = self.segments.reference, self.updates[block]
        own = Segment(length - reference, self.modulations[block][step], updates.known)
        if not reference:
            return (own,)
        still = self.reference_modulations[block]
        return own, Segment(reference, still, updates.reference)

    def text_modulation(self, block: int, step: int) -> Modulation:
        """Modulation of a double block's text stream."""
        modulation, updates = self.text_modulations[block][step], self.updates[block]
        return (Segment(self.segments.text, modulation, updates.known),)

    def timesteps(self) -> Tensor:
        """Modulations of all blocks side by side, [S, all, B, 1, C]."""
        return torch.cat([*self.modulations, *self.text_modulations], dim=1)

    def at(self, modulations: Tensor) -> "Conditioning":
        """Conditioning of one timestep, made of views of a row of `timesteps`."""
        sizes = [m.shape[1] for m in (*self.modulations, *self.text_modulations)]
        parts, blocks = modulations[None].split(sizes, dim=1), len(self.modulations)
        return replace(self, modulations=parts[:blocks], text_modulations=parts[blocks:])

    def last(self, items: int) -> "Conditioning":
        """Conditioning of the last items of the batch."""
        if items == len(self.text):
            return self
        return replace(
            self,
            text=self.text[-items:],
            reference=None if self.reference is None else self.reference[-items:],
            modulations=tuple(m[:, :, -items:] for m in self.modulations),
            text_modulations=tuple(m[:, :, -items:] for m in self.text_modulations),
            reference_modulations=tuple(m[:, -items:] for m in self.reference_modulations),
        )


@dataclass(frozen=True, repr=False)
class Prediction:
    """One step's result.

    Attributes:
        features: [B, H, W, C], see `MaskedTransformer.logits`.
        scores: what the probe read, by block.
    """

    features: Tensor
    scores: Mapping[int, Tensor] = field(default_factory=dict)
