"""What one pass through the transformer takes besides token ids, and what it gives.

`prepare` makes a `Conditioning` once per run; the blocks see of it the `AttentionContext`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import (
    STRENGTH_SCOPES,
    AttentionFunction,
    Probe,
    QueryGroup,
    grouped_attention,
    within,
)

Modulation = tuple[Tensor, ...]
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class AttentionContext:
    """What the attention of one forward pass needs besides hidden states.

    Attributes:
        attention: the attention function.
        groups: queries split by their reference-strength bias.
        rotary: one `rotary_table` per image stream.
        joint_rotary: the same for text followed by the target.
        text_length: text rows T. positions: target positions N.
        rows: [B, n] the target positions computed in this pass; None: all, in reading order.
    """

    attention: AttentionFunction
    groups: list[QueryGroup]
    rotary: tuple[Tensor, ...]
    joint_rotary: Tensor
    text_length: int
    positions: int
    rows: Tensor | None = None

    def at(self, rows: Tensor) -> "AttentionContext":
        """For a pass over the target positions `rows` [B, n] alone, the rest being kept."""
        image, text = self.rotary[0], self.joint_rotary[:, : self.text_length]
        chosen = image[:, rows][:, :, None]  # one table per item, the same for all heads
        joint = torch.cat([text[:, None, None].expand(-1, len(rows), -1, -1, -1), chosen], dim=3)
        return replace(self, rotary=(chosen,), joint_rotary=joint, rows=rows)

    def keys(self, fresh: Sequence[Tensor], kept: Tensor | None) -> Tensor:
        """Keys, or values, of all tokens from those computed in this pass and those kept.

        fresh: text, target and, where nothing is kept, reference; [B, heads, L, d] each.
        kept: [B, heads, N + R, d] of an earlier pass.
        """
        if kept is None:
            return torch.cat(fresh, dim=2)
        text, target = fresh
        if self.rows is None:
            return torch.cat([text, target, kept[:, :, self.positions :]], dim=2)
        index = self.rows[:, None, :, None].expand_as(target)
        return torch.cat([text, kept.scatter(2, index, target)], dim=2)

    def join(
        self,
        projections: Sequence[tuple[Tensor, Tensor, Tensor]],
        probe: Probe | None,
        kept: KeysValues | None,
    ) -> "Joined":
        """Queries, keys and values of text, target (and reference) as one sequence."""
        queries, keys, values = zip(*projections, strict=True)
        text, end = self.text_length, self.text_length + self.positions
        q, k = torch.cat(queries, dim=2), self.keys(keys, kept and kept[0])
        v = self.keys(values, kept and kept[1])
        scores = None if probe is None else probe(q[:, :, :text], k[:, :, :end])
        return Joined(q, k, v, scores, (k[:, :, text:], v[:, :, text:]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, first: int = 0) -> Tensor:
        """[B, heads, L, d] each -> [B, L, heads * d]; q may hold only rows from `first` on."""
        groups = within(self.groups, first, first + q.shape[2])
        return grouped_attention(self.attention, groups, q, k, v)


class Joined(NamedTuple):
    """What attention takes, what the probe read of it, and the image tokens' keys and values."""

    q: Tensor
    k: Tensor
    v: Tensor
    scores: Tensor | None
    seen: KeysValues


@dataclass(frozen=True, repr=False)
class Conditioning:
    """The step-independent inputs of one run; made by `MaskedTransformer.prepare`.

    Attributes:
        text: the text stream's input [B, T, C].
        vector: embedded pooled text and micro-conditions [B, C].
        reference: the reference stream's input [B, R, C], or None (text to image).
        reference_modulations: one per block, at the fixed reference timestep.
        context: everything attention needs.
        grid: rows and columns of positions inside the transformer.
    """

    text: Tensor
    vector: Tensor
    reference: Tensor | None
    reference_modulations: tuple[Modulation, ...]
    context: AttentionContext
    grid: tuple[int, int]

    def __repr__(self) -> str:
        return f"Conditioning(batch={len(self.text)}, grid={self.grid})"

    def beside(self, rows: Tensor | None) -> "Conditioning":
        """For a step that computes the target alone, of it the positions `rows` [B, n] or all."""
        context = self.context if rows is None else self.context.at(rows)
        return replace(self, reference=None, reference_modulations=(), context=context)

    def last(self, items: int) -> "Conditioning":
        """That of the last items of the batch."""
        if items == len(self.text):
            return self
        return replace(
            self,
            text=self.text[-items:],
            vector=self.vector[-items:],
            reference=None if self.reference is None else self.reference[-items:],
            reference_modulations=tuple(
                tuple(part[-items:] for part in m) for m in self.reference_modulations
            ),
        )


@dataclass(frozen=True)
class InjectionOptions:
    """How the reference takes part.

    Attributes:
        strength: gamma > 0; 1 adds no bias.
        scope: `"text+image"` (published code) or `"image"` (paper).
        timestep: the reference's fixed timestep; 0 in paper and code.
    """

    strength: float = 1.0
    scope: str = STRENGTH_SCOPES[0]
    timestep: float = 0.0


@dataclass(frozen=True, repr=False)
class Prediction:
    """One step's result.

    Attributes:
        features: [B, H, W, C], see `MaskedTransformer.logits`; zero where not computed.
        scores: what the probe read, by block.
        kept: keys and values of target and reference in every block, where asked for.
    """

    features: Tensor
    scores: Mapping[int, Tensor] = field(default_factory=dict)
    kept: tuple[KeysValues, ...] = ()
