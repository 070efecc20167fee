"""Attention maths shared by both kinds of block: rotary positions, strength, score rows."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Probe = Callable[[Tensor, Tensor], Tensor]

STRENGTH_SCOPES = ("text+image", "image")


def sdpa(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, [B, heads, L, d]; `key_bias` [L_k] is added to every row."""
    mask = None if key_bias is None else key_bias.to(q.dtype)[None, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class QueryGroup(NamedTuple):
    """Queries from `first` to before `end` share one bias over the keys (None: no bias)."""

    first: int
    end: int
    key_bias: Tensor | None


def strength_groups(
    lengths: Sequence[int], strength: float, scope: str, device: torch.device
) -> list[QueryGroup]:
    """Split the queries by the bias that reference strength gamma puts on their keys.

    Logits between the reference and the rest get + log gamma: `"text+image"` for text and image
    (published code), `"image"` for image alone (paper). Whole query rows share a bias, so a vector
    over the keys says it all and no [L, L] mask is built.

    Args:
        lengths: text, image and reference tokens, in sequence order.
        strength: gamma > 0; 1 is no bias.
        scope: one of `STRENGTH_SCOPES`.
    """
    text, image, reference = lengths
    total = text + image + reference
    if reference == 0 or strength == 1:
        return [QueryGroup(0, total, None)]
    bias = math.log(strength)
    to_reference = torch.zeros(total, device=device)
    to_reference[text + image :] = bias
    from_reference = torch.zeros(total, device=device)
    first = 0 if scope == "text+image" else text
    from_reference[first : text + image] = bias
    groups = [
        QueryGroup(first, text + image, to_reference),
        QueryGroup(text + image, total, from_reference),
    ]
    return groups if first == 0 else [QueryGroup(0, text, None), *groups]


def within(groups: list[QueryGroup], first: int, end: int) -> list[QueryGroup]:
    """The groups cut down to a run of query rows; those with none of them are gone."""
    cut = [QueryGroup(max(g.first, first), min(g.end, end), g.key_bias) for g in groups]
    return [g for g in cut if g.first < g.end]


def grouped_attention(
    attention: AttentionFunction, groups: list[QueryGroup], q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Run `attention` once per query group over all keys; [B, heads, L, d] -> [B, L, heads * d]."""
    first = groups[0].first  # of the rows that q holds
    parts = [attention(q[:, :, g.first - first : g.end - first], k, v, g.key_bias) for g in groups]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return out.transpose(1, 2).flatten(2)


def rotary_table(positions: Tensor, axes: Sequence[int], theta: float = 10000.0) -> Tensor:
    """Cosines and sines of every position and channel, [2, L, sum(axes)] float32.

    Made in float64, which not every device has: to be moved there afterwards.

    Args:
        positions: [L, len(axes)] integer coordinates, on the CPU.
        axes: channels given to each coordinate.
    """
    angles = []
    for axis, channels in enumerate(axes):
        exponent = torch.arange(0, channels, 2, dtype=torch.float64)
        frequency = 1.0 / theta ** (exponent / channels)
        angles.append(positions[:, axis].double()[:, None] * frequency)
    angle = torch.cat(angles, dim=1).repeat_interleave(2, dim=1)
    return torch.stack([angle.cos(), angle.sin()]).float()


def grid_positions(rows: int, cols: int) -> Tensor:
    """Coordinates (0, row, column) of a grid in reading order, [rows * cols, 3]."""
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, col], dim=-1).reshape(-1, 3)


def rotate(x: Tensor, table: Tensor | None) -> Tensor:
    """Rotate channel pairs of [B, heads, L, d] by a `rotary_table`; None leaves x as it is."""
    if table is None:
        return x
    pairs = x.float().unflatten(-1, (-1, 2))
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return (x.float() * table[0] + turned * table[1]).to(x.dtype)


def text_to_image(q_text: Tensor, k: Tensor) -> Tensor:
    """Attention of text rows over text and image keys, image columns only.

    Reference keys are left out of the softmax, as in the published code, so strength has no say.

    Args:
        q_text: [B, heads, T, d].
        k: [B, heads, T + N, d], text keys first.

    Returns:
        [B, heads, T, N] float32.
    """
    # Scaled before the product: rows of d channels instead of T + N logits.
    logits = (q_text.float() / math.sqrt(q_text.shape[-1])) @ k.float().transpose(-1, -2)
    return logits.softmax(dim=-1)[..., q_text.shape[2] :]


class MeanOfRows:
    """A probe: mean over heads, weighted mean over text rows, of the last items of the batch.

    Args:
        row_weights: [b, T], each row summing to one; it reads the last b items of the batch, which
            under guidance is the conditional half.
    """

    def __init__(self, row_weights: Tensor) -> None:
        self.row_weights = row_weights

    def __call__(self, q_text: Tensor, k: Tensor) -> Tensor:
        """Scores [b, N] from text queries [B, heads, T, d] and text+image keys."""
        items = self.row_weights.shape[0]
        probabilities = text_to_image(q_text[-items:], k[-items:]).mean(dim=1)
        # A plain sum: a matrix product over hundreds of rows rounds ten times worse in float32.
        return (self.row_weights.to(probabilities)[:, :, None] * probabilities).sum(dim=1)
