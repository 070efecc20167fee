"""The two kinds of transformer block, written once for any number of image streams.

A stream is a run of tokens with its own modulation. The target is always there; the reference is an
optional further stream through the same weights (attention injection, paper section 3), never a
second code path.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Probe, rotate
from .conditioning import AttentionContext, KeysValues, Modulation

Streams = tuple[Tensor, ...]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Parameter-free layer norm of [B, L, C], then shift and scale [B, C]."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def within_half(x: Tensor) -> Tensor:
    """Clip to what float16 can hold; other types pass unchanged."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x


class ModulationLayer(nn.Module):
    """Linear map from the condition embedding to `parts` vectors, under the name `linear`."""

    def __init__(self, width: int, parts: int, operations=nn) -> None:
        super().__init__()
        self.parts = parts
        self.linear = operations.Linear(width, parts * width)

    def forward(self, embedding: Tensor) -> Modulation:
        """[B, C] -> `parts` tensors [B, C]."""
        return self.linear(F.silu(embedding)).chunk(self.parts, dim=-1)


class GeluProjection(nn.Module):
    """Linear followed by tanh-GELU, under the name `proj`."""

    def __init__(self, in_width: int, out_width: int, operations=nn) -> None:
        super().__init__()
        self.proj = operations.Linear(in_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two-layer MLP of four times the width; the list keeps the published indices 0 and 2."""

    def __init__(self, width: int, operations=nn) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GeluProjection(width, 4 * width, operations),
            nn.Identity(),
            operations.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.net(x)


class AttentionLayers(nn.Module):
    """Projections and query/key norms of one block; with `text` it has a second, text-only set."""

    def __init__(self, width: int, heads: int, *, text: bool, operations=nn) -> None:
        super().__init__()
        self.heads = heads
        head_width = width // heads
        self.norm_q = operations.RMSNorm(head_width, eps=1e-6)
        self.norm_k = operations.RMSNorm(head_width, eps=1e-6)
        self.to_q = operations.Linear(width, width)
        self.to_k = operations.Linear(width, width)
        self.to_v = operations.Linear(width, width)
        if text:
            self.add_q_proj = operations.Linear(width, width)
            self.add_k_proj = operations.Linear(width, width)
            self.add_v_proj = operations.Linear(width, width)
            self.norm_added_q = operations.RMSNorm(head_width, eps=1e-6)
            self.norm_added_k = operations.RMSNorm(head_width, eps=1e-6)
            self.to_out = nn.ModuleList([operations.Linear(width, width)])
            self.to_add_out = operations.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def image(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys, values [B, heads, L, d] of one image stream."""
        q = rotate(self.norm_q(self._split(self.to_q(x))), table)
        k = rotate(self.norm_k(self._split(self.to_k(x))), table)
        return q, k, self._split(self.to_v(x))

    def text(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the text stream; all its positions are zero, so nothing is rotated."""
        q = self.norm_added_q(self._split(self.add_q_proj(x)))
        k = self.norm_added_k(self._split(self.add_k_proj(x)))
        return q, k, self._split(self.add_v_proj(x))


class DoubleOutput(NamedTuple):
    """Streams after a block, what its probe read, and the keys and values of the image tokens."""

    text: Tensor
    images: Streams
    scores: Tensor | None
    seen: KeysValues


class SingleOutput(NamedTuple):
    """Streams after a block, what its probe read, and the keys and values of the image tokens."""

    streams: Streams
    scores: Tensor | None
    seen: KeysValues


class DoubleBlock(nn.Module):
    """Text and image streams with their own weights, joined in one attention."""

    def __init__(self, width: int, heads: int, operations=nn) -> None:
        super().__init__()
        self.norm1 = ModulationLayer(width, 6, operations)
        self.norm1_context = ModulationLayer(width, 6, operations)
        self.attn = AttentionLayers(width, heads, text=True, operations=operations)
        self.ff = FeedForward(width, operations)
        self.ff_context = FeedForward(width, operations)

    def modulations(self, embeddings: Streams) -> tuple[Modulation, ...]:
        """Modulation of each image stream from its embedding [B, C]."""
        return tuple(self.norm1(e) for e in embeddings)

    def forward(
        self,
        text: Tensor,
        images: Streams,
        embedding: Tensor,
        modulations: tuple[Modulation, ...],
        context: AttentionContext,
        probe: Probe | None = None,
        kept: KeysValues | None = None,
    ) -> DoubleOutput:
        """Text [B, T, C] and image streams [B, L_i, C] -> the same, and what the probe read.

        kept: `DoubleOutput.seen` of an earlier step, for the positions that are not among `images`.
        """
        text_modulation = self.norm1_context(embedding)
        projections = [self.attn.text(modulate(text, *text_modulation[:2]))]
        for x, m, table in zip(images, modulations, context.rotary, strict=False):
            projections.append(self.attn.image(modulate(x, *m[:2]), table))
        q, k, v, scores, seen = context.join(projections, probe, kept)
        lengths = [x.shape[1] for x in (text, *images)]
        for_text, *for_images = context.attend(q, k, v).split(lengths, dim=1)
        for_text = self.attn.to_add_out(for_text)
        text = self._finish(text, for_text, text_modulation, self.ff_context)
        images = tuple(
            self._finish(x, self.attn.to_out[0](a), m, self.ff)
            for x, a, m in zip(images, for_images, modulations, strict=True)
        )
        return DoubleOutput(within_half(text), images, scores, seen)

    @staticmethod
    def _finish(x: Tensor, attended: Tensor, modulation: Modulation, ff: nn.Module) -> Tensor:
        _, _, gate, shift, scale, ff_gate = modulation
        x = x + gate[:, None] * attended
        return x + ff_gate[:, None] * ff(modulate(x, shift, scale))


class SingleBlock(nn.Module):
    """Text and target as one joint stream, the reference as a second one through all weights."""

    def __init__(self, width: int, heads: int, operations=nn) -> None:
        super().__init__()
        self.norm = ModulationLayer(width, 3, operations)
        self.proj_mlp = operations.Linear(width, 4 * width)
        self.proj_out = operations.Linear(5 * width, width)
        self.attn = AttentionLayers(width, heads, text=False, operations=operations)

    def modulations(self, embeddings: Streams) -> tuple[Modulation, ...]:
        """Modulation of each stream from its embedding [B, C]."""
        return tuple(self.norm(e) for e in embeddings)

    def forward(
        self,
        streams: Streams,
        modulations: tuple[Modulation, ...],
        context: AttentionContext,
        probe: Probe | None = None,
        kept: KeysValues | None = None,
        target_only: bool = False,
    ) -> SingleOutput:
        """Streams [B, L_i, C], the first being text then target -> the same, and the probe's.

        kept: as in `DoubleBlock`. target_only: compute, and return, nothing but the target's rows;
        for the last block, of which nothing else is read.
        """
        tables = (context.joint_rotary, *context.rotary[1:])
        normed = [modulate(x, *m[:2]) for x, m in zip(streams, modulations, strict=True)]
        projections = [self.attn.image(x, t) for x, t in zip(normed, tables, strict=False)]
        text = context.text_length
        joint = [(p[:, :, :text], p[:, :, text:]) for p in projections[0]]
        q, k, v, scores, seen = context.join(
            [*zip(*joint, strict=True), *projections[1:]], probe, kept
        )
        first = 0
        if target_only:
            first, rows = text, slice(text, streams[0].shape[1])
            streams, normed, q = (streams[0][:, rows],), [normed[0][:, rows]], q[:, :, rows]
        attended = context.attend(q, k, v, first).split([x.shape[1] for x in streams], 1)
        out = []
        for x, n, a, (_, _, gate) in zip(streams, normed, attended, modulations, strict=False):
            mlp = F.gelu(self.proj_mlp(n), approximate="tanh")
            out.append(within_half(x + gate[:, None] * self.proj_out(torch.cat([a, mlp], dim=2))))
        return SingleOutput(tuple(out), scores, seen)
