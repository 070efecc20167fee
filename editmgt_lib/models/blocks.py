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
from .adapters import BlockUpdates
from .attention import rotate
from .conditioning import Joined, Modulation, Segment
from .projections import AttentionLayers, by_segment, project, queries_and_keys

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

    return by_segment(scaled, modulation, x)


def add_gated(x: Tensor, update: Tensor, modulation: Modulation, half: int = ATTENTION) -> Tensor:
    """Add gate * update to x, each segment with its own gate."""

    def added(segment: Segment, part: Tensor, new: Tensor) -> Tensor:
        return torch.addcmul(part, segment.modulation[half + GATE], new)

    return by_segment(added, modulation, x, update)


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


class Block(nn.Module):
    """A block in two halves, before and after attention, each of which can be compiled.

    Attention stays outside them: it depends on the back end, records scores, and may use cached
    keys and values.
    """

    def __init__(self) -> None:
        super().__init__()
        # Functions of the class, not bound methods, so that a copy runs with its own weights.
        self.halves = (type(self).before, type(self).after)

    def joined(self, updates: BlockUpdates, like: Tensor) -> tuple[Joined, ...] | None:
        """Joined layers of the image and, if it has its own, of the text; see `Stream.joined`."""
        each = tuple(stream.joined(updates, like) for stream in self.attn.streams)
        return None if None in each else each

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
        joined: tuple[Joined, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update text [B, T, C] and image [B, L, C]; rotary: of all T + L tokens.

        joined: from `joined`.
        """
        before, after = self.halves
        q, k, v = before(self, text, image, text_modulation, modulation, rotary, joined)
        return after(self, text, image, attend(q, k, v), text_modulation, modulation)

    def before(self, text, image, text_modulation, modulation, rotary, joined):
        """Compute q, k and v of both streams, [B, heads, T + L, d]."""
        attn, (for_image, for_text) = self.attn, joined or (None, None)
        words, values = attn.text.project(
            modulate(text, text_modulation), text_modulation, attn.heads, for_text
        )
        parts, v = attn.image.project(
            modulate(image, modulation), modulation, attn.heads, for_image
        )
        table = rotary[..., text.shape[1] :, :]  # text lies at position 0, which turns nothing
        parts = (rotate(part, table) for part in parts)
        qk = (torch.cat(pair, dim=-2) for pair in zip(words, parts, strict=True))
        return *queries_and_keys(qk, v.dtype), torch.cat([values, v], dim=2)

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
        joined: tuple[Joined, ...] | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """Update [B, L, C]; rows: compute only these, which lie in the first segment."""
        before, after = self.halves
        q, k, v, normed = before(self, x, modulation, rotary, joined)
        attended = attend(q, k, v, rows)
        if rows is not None:
            x, normed, modulation = x[:, rows], normed[:, rows], modulation[:1]
        return after(self, x, normed, attended, modulation)

    def before(self, x, modulation, rotary, joined):
        """Compute q, k and v [B, heads, L, d], and the normed stream, which the MLP needs."""
        normed, attn = modulate(x, modulation), self.attn
        parts, v = attn.image.project(normed, modulation, attn.heads, *(joined or ()))
        return *queries_and_keys((rotate(part, rotary) for part in parts), v.dtype), v, normed

    def after(self, x, normed, attended, modulation):
        """Apply attention's result and the MLP to the stream."""
        mlp = F.gelu(project(self.proj_mlp, normed, modulation), approximate="tanh")
        update = project(self.proj_out, torch.cat([attended, mlp], dim=2), modulation)
        return within_half(add_gated(x, update, modulation))
