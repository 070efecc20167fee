"""Layers applied to the segments of a stream, and the projections to queries, keys and values."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .adapters import BlockUpdates
from .conditioning import Joined, Modulation, Segment

SEPARATE = ("cpu",)  # devices on which joining gains nothing

# Normed queries and keys, each [B, heads, L, d], or both as one [2, B, heads, L, d]; and values.
Projected = tuple[tuple[Tensor, ...], Tensor]


def project(layer: nn.Module, x: Tensor, modulation: Modulation) -> Tensor:
    """Apply a linear layer to [B, L, C] in one product, then each segment's low-rank update."""
    y = layer(x)
    if not any(layer.key in segment.updates for segment in modulation):
        return y

    def updated(segment: Segment, rows: Tensor, out: Tensor) -> Tensor:
        update = segment.updates.get(layer.key)
        return out if update is None else out + update.product(rows)

    return by_segment(updated, modulation, x, y)


def by_segment(function: Callable[..., Tensor], modulation: Modulation, *x: Tensor) -> Tensor:
    """Apply a function (segment, *rows) to the rows of each segment."""
    if len(modulation) == 1:
        return function(modulation[0], *x)
    parts = zip(*(t.split([s.length for s in modulation], dim=1) for t in x), strict=True)
    return torch.cat([function(s, *p) for s, p in zip(modulation, parts, strict=True)], 1)


class Stream(NamedTuple):
    """The layers that project one stream to q, k and v, and the norms of q and k."""

    layers: tuple[nn.Linear, ...]
    norms: tuple[nn.Module, ...]

    def project(
        self, x: Tensor, modulation: Modulation, heads: int, joined: Joined | None = None
    ) -> Projected:
        """Project [B, L, C] layer by layer, or in one product, then with q and k in float32."""
        if joined is None:
            q, k, v = (
                rearrange(project(layer, x, modulation), "b l (h d) -> b h l d", h=heads)
                for layer in self.layers
            )
            return (self.norms[0](q), self.norms[1](k)), v
        qkv = F.linear(x, joined.weight, joined.bias)
        qkv = rearrange(qkv, "b l (n h d) -> b l n h d", n=3, h=heads)
        qk = F.rms_norm(qkv[:, :, :2].float(), qkv.shape[-1:], eps=self.norms[0].eps)
        qk = rearrange(qk * joined.norm, "b l n h d -> n b h l d")
        return (qk,), rearrange(qkv[:, :, 2], "b l h d -> b h l d")

    def joined(self, updates: BlockUpdates, like: Tensor) -> Joined | None:
        """Copy the layers into one, for inference on a GPU; None where they are to be called.

        On a GPU one product of three times the width is faster than three; on a CPU it takes as
        long. Layers that a host moves, casts or hooks are called, as are those with low-rank
        updates and, since the copies are made once per run, those in training.
        """
        changed = updates.known.keys() | updates.reference.keys()
        plain = all(
            type(layer) is nn.Linear
            and type(layer.weight) is nn.Parameter
            and layer.weight.device == like.device
            and not (layer._forward_hooks or layer._forward_pre_hooks)
            and layer.key not in changed
            for layer in self.layers
        )
        if not plain or like.device.type in SEPARATE or torch.is_grad_enabled():
            return None
        norm = torch.stack([norm.weight for norm in self.norms]).float()
        return Joined(
            torch.cat([layer.weight for layer in self.layers]),
            torch.cat([layer.bias for layer in self.layers]),
            norm[:, None],
        )


def queries_and_keys(parts: Iterable[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round `Projected` queries and keys, and take them apart."""
    parts = [part.to(dtype) for part in parts]
    q, k = parts if len(parts) == 2 else parts[0]
    return q, k


class AttentionLayers(nn.Module):
    """Projections and query/key norms of one block; `text` adds a second set for the text."""

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

    @property
    def image(self) -> Stream:
        """Layers of the image stream."""
        return Stream((self.to_q, self.to_k, self.to_v), (self.norm_q, self.norm_k))

    @property
    def text(self) -> Stream:
        """Layers of the text stream."""
        layers = self.add_q_proj, self.add_k_proj, self.add_v_proj
        return Stream(layers, (self.norm_added_q, self.norm_added_k))

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Image, and text if it has layers of its own."""
        return (self.image, self.text) if hasattr(self, "add_q_proj") else (self.image,)
