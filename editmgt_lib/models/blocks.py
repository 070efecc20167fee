"""The two kinds of transformer block (paper section 3).

The image stream is the target, followed by the reference if there is one: attention injection
means further tokens that go through the same weights with a modulation of their own.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import EditMGTError
from .attention import rotate
from .conditioning import Modulation, Segment

Attend = Callable[..., Tensor]  # (q, k, v, rows=None) -> [B, L, C]; see `attention.Attention`

# Layers of a double block that only the text goes through.
TEXT_LAYERS = ("attn.add_", "attn.to_add_out", "ff_context.")

SHIFT, SCALE, GATE = range(3)
ATTENTION, MLP = 0, 3  # first part of each half of a double block


def modulate(x: Tensor, modulation: Modulation, half: int = ATTENTION) -> Tensor:
    """Parameter-free layer norm of [B, L, C], then each segment's scale and shift."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)

    def scaled(segment: Segment, part: Tensor) -> Tensor:
        m = segment.modulation
        return torch.addcmul(m[half + SHIFT], part, m[half + SCALE])

    return _by_segment(scaled, modulation, x)


def add_gated(x: Tensor, update: Tensor, modulation: Modulation, half: int = ATTENTION) -> Tensor:
    """Add gate * update to x, each segment with its own gate."""

    def added(segment: Segment, part: Tensor, new: Tensor) -> Tensor:
        return torch.addcmul(part, segment.modulation[half + GATE], new)

    return _by_segment(added, modulation, x, update)


def project(layer: nn.Module, x: Tensor, modulation: Modulation) -> Tensor:
    """Apply a linear layer to [B, L, C] in one product, then each segment's low-rank update."""
    y = layer(x)
    if not any(layer.key in segment.updates for segment in modulation):
        return y

    def updated(segment: Segment, rows: Tensor, out: Tensor) -> Tensor:
        update = segment.updates.get(layer.key)
        return out if update is None else out + update.product(rows)

    return _by_segment(updated, modulation, x, y)


def _by_segment(function: Callable[..., Tensor], modulation: Modulation, *x: Tensor) -> Tensor:
    if len(modulation) == 1:
        return function(modulation[0], *x)
    parts = zip(*(t.split([s.length for s in modulation], dim=1) for t in x), strict=True)
    return torch.cat([function(s, *p) for s, p in zip(modulation, parts, strict=True)], 1)


def within_half(x: Tensor) -> Tensor:
    """Clip float16 to its finite range; other types pass unchanged."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x


class ModulationLayer(nn.Module):
    """Linear map from the condition embedding to shift, scale and gate, `halves` times."""

    def __init__(self, width: int, halves: int, operations=nn) -> None:
        super().__init__()
        self.parts = 3 * halves
        self.linear = operations.Linear(width, self.parts * width)

    def forward(self, embedding: Tensor) -> Tensor:
        """[..., B, C] -> [..., parts, B, 1, C], with 1 + scale for scale."""
        m = rearrange(self.linear(F.silu(embedding)), "... b (p c) -> ... p b 1 c", p=self.parts)
        one = torch.zeros(self.parts, 1, 1, 1, dtype=m.dtype, device=m.device)
        one[SCALE::3] = 1
        return m + one


class GeluProjection(nn.Module):
    """Linear (named `proj`) followed by tanh-GELU."""

    def __init__(self, in_width: int, out_width: int, operations=nn) -> None:
        super().__init__()
        self.proj = operations.Linear(in_width, out_width)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        return F.gelu(project(self.proj, x, modulation), approximate="tanh")


class FeedForward(nn.Module):
    """Two-layer MLP of four times the width, with the published indices 0 and 2 in its list."""

    def __init__(self, width: int, operations=nn) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                GeluProjection(width, 4 * width, operations),
                nn.Identity(),
                operations.Linear(4 * width, width),
            ]
        )

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        return project(self.net[2], self.net[0](x, modulation), modulation)


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

    def image(self, x: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor, Tensor]:
        """Project the image stream [B, L, C] to q, k and v [B, heads, L, d], not yet rotated."""
        layers = self.to_q, self.to_k, self.to_v
        q, k, v = (self._heads(project(layer, x, modulation)) for layer in layers)
        return self.norm_q(q), self.norm_k(k), v

    def text(self, x: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor, Tensor]:
        """Project the text stream."""
        layers = self.add_q_proj, self.add_k_proj, self.add_v_proj
        q, k, v = (self._heads(project(layer, x, modulation)) for layer in layers)
        return self.norm_added_q(q), self.norm_added_k(k), v

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b h l d", h=self.heads)


class Block(nn.Module):
    """A block in two halves, before and after attention, each of which can be compiled.

    Attention stays outside them: it depends on the back end, records scores, and may use cached
    keys and values.
    """

    def __init__(self) -> None:
        super().__init__()
        # Functions of the class, not bound methods, so that a copy runs with its own weights.
        self.halves = (type(self).before, type(self).after)

    def _name_layers(self) -> None:
        """Give every layer that rows go through the name by which updates find it."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and not name.startswith("norm"):
                layer.key = name


def compiled(half: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Compile a half of a block with `torch.compile(**options)`, for all blocks of one network.

    Raises, when called, EditMGTError where there is no compiler, or it fails.
    """
    # A copy of the code: torch counts recompilations by code, whichever network they were for.
    own = FunctionType(half.__code__.replace(), half.__globals__, half.__name__)
    # fullgraph: a graph break or a shape too many raises instead of silently running uncompiled.
    function = torch.compile(own, **{"fullgraph": True, "dynamic": True, **options})

    @functools.wraps(half)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise EditMGTError(f"torch.compile failed, do without: {error}") from error

    return call


class DoubleBlock(Block):
    """Text and image streams with weights of their own and joint attention."""

    def __init__(self, width: int, heads: int, operations=nn) -> None:
        super().__init__()
        self.norm1 = ModulationLayer(width, 2, operations)
        self.norm1_context = ModulationLayer(width, 2, operations)
        self.attn = AttentionLayers(width, heads, text=True, operations=operations)
        self.ff = FeedForward(width, operations)
        self.ff_context = FeedForward(width, operations)
        self._name_layers()

    def modulation(self, embedding: Tensor) -> Tensor:
        """Modulation of the image stream, from conditions [..., B, C]."""
        return self.norm1(embedding)

    def text_modulation(self, embedding: Tensor) -> Tensor:
        """Modulation of the text stream, from conditions [..., B, C]."""
        return self.norm1_context(embedding)

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        text_modulation: Modulation,
        modulation: Modulation,
        rotary: Tensor,
        attend: Attend,
    ) -> tuple[Tensor, Tensor]:
        """Update text [B, T, C] and image [B, L, C]; rotary: of all T + L tokens."""
        before, after = self.halves
        q, k, v = before(self, text, image, text_modulation, modulation, rotary)
        return after(self, text, image, attend(q, k, v), text_modulation, modulation)

    def before(self, text, image, text_modulation, modulation, rotary):
        """Compute q, k and v of both streams, [B, heads, T + L, d]."""
        from_text = self.attn.text(modulate(text, text_modulation), text_modulation)
        q, k, v = self.attn.image(modulate(image, modulation), modulation)
        table = rotary[..., text.shape[1] :, :]  # text lies at position 0, which turns nothing
        from_image = rotate(q, table), rotate(k, table), v
        return tuple(torch.cat(pair, dim=2) for pair in zip(from_text, from_image, strict=True))

    def after(self, text, image, attended, text_modulation, modulation):
        """Apply attention's result and the MLP to both streams."""
        for_text, for_image = attended.split([text.shape[1], image.shape[1]], dim=1)
        new_text = project(self.attn.to_add_out, for_text, text_modulation)
        new_image = project(self.attn.to_out[0], for_image, modulation)
        text = add_gated(text, new_text, text_modulation)
        image = add_gated(image, new_image, modulation)
        mlp = self.ff_context(modulate(text, text_modulation, MLP), text_modulation)
        text = add_gated(text, mlp, text_modulation, MLP)
        mlp = self.ff(modulate(image, modulation, MLP), modulation)
        image = add_gated(image, mlp, modulation, MLP)
        return within_half(text), image


class SingleBlock(Block):
    """Text and image as one stream, attention and MLP in parallel."""

    def __init__(self, width: int, heads: int, operations=nn) -> None:
        super().__init__()
        self.norm = ModulationLayer(width, 1, operations)
        self.proj_mlp = operations.Linear(width, 4 * width)
        self.proj_out = operations.Linear(5 * width, width)
        self.attn = AttentionLayers(width, heads, text=False, operations=operations)
        self._name_layers()

    def modulation(self, embedding: Tensor) -> Tensor:
        """Modulation of the stream, from conditions [..., B, C]."""
        return self.norm(embedding)

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        rotary: Tensor,
        attend: Attend,
        rows: slice | None = None,
    ) -> Tensor:
        """Update [B, L, C]; rows: compute only these, which lie in the first segment."""
        before, after = self.halves
        q, k, v, normed = before(self, x, modulation, rotary)
        attended = attend(q, k, v, rows)
        if rows is not None:
            x, normed, modulation = x[:, rows], normed[:, rows], modulation[:1]
        return after(self, x, normed, attended, modulation)

    def before(self, x, modulation, rotary):
        """Compute q, k and v [B, heads, L, d], and the normed stream, which the MLP needs."""
        normed = modulate(x, modulation)
        q, k, v = self.attn.image(normed, modulation)
        return rotate(q, rotary), rotate(k, rotary), v, normed

    def after(self, x, normed, attended, modulation):
        """Apply attention's result and the MLP to the stream."""
        mlp = F.gelu(project(self.proj_mlp, normed, modulation), approximate="tanh")
        update = project(self.proj_out, torch.cat([attended, mlp], dim=2), modulation)
        return within_half(add_gated(x, update, modulation))
