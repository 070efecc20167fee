"""Attention maths: rotary positions, reference strength, and the scores of text rows."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

Probe = Callable[[Tensor, Tensor], Tensor]

STRENGTH_SCOPES = ("text+image", "image")


COMPLEX = ("cpu", "cuda", "meta")  # devices that multiply complex numbers


class Segments(NamedTuple):
    """Lengths of the three parts of a token sequence, in their order."""

    text: int
    target: int
    reference: int

    @property
    def target_rows(self) -> slice:
        """Slice of the sequence that is the target."""
        return slice(self.text, self.text + self.target)


class QueryGroup(NamedTuple):
    """Query rows that share one bias, added to their logits at the key columns `keys`.

    key_bias: the bias as a row [1, 1, 1, L_k] for kernels that take a mask; None without bias.
    """

    rows: slice
    keys: slice = slice(0, 0)
    bias: float = 0.0
    key_bias: Tensor | None = None


AttentionFunction = Callable[[Tensor, Tensor, Tensor, Sequence[QueryGroup]], Tensor]


def strength_groups(
    queries: Segments, keys: Segments, strength: float, scope: str, like: Tensor
) -> tuple[QueryGroup, ...]:
    """Group query rows by the bias that reference strength gamma puts on their keys.

    log gamma is added to logits between the reference and text and image (`"text+image"`,
    published code) or the image alone (`"image"`, paper). Softmax ignores a constant, so the rows
    of a group share one bias over the keys and no [L, L] mask is built.

    Args:
        queries, keys: segments of the query rows and key columns.
        strength: gamma > 0; 1 is no bias.
        scope: one of `STRENGTH_SCOPES`.
        like: a tensor with the device and dtype of the queries.
    """
    text, known = queries.text, queries.text + queries.target
    total, edge = known + queries.reference, keys.text + keys.target
    if keys.reference == 0 or strength == 1:
        return (QueryGroup(slice(0, total)),)
    biased = 0 if scope == "text+image" else 1
    to_reference = slice(edge, edge + keys.reference)
    from_reference = slice(biased * keys.text, edge)
    groups = (
        (slice(0, biased * text), None),
        (slice(biased * text, known), to_reference),
        (slice(known, total), from_reference),
    )
    return tuple(
        QueryGroup(rows) if columns is None else _biased(rows, columns, keys, strength, like)
        for rows, columns in groups
        if rows.start < rows.stop
    )


def _biased(
    rows: slice, columns: slice, keys: Segments, strength: float, like: Tensor
) -> QueryGroup:
    key_bias = torch.zeros(1, 1, 1, sum(keys), device=like.device, dtype=like.dtype)
    key_bias[..., columns] = math.log(strength)
    return QueryGroup(rows, columns, math.log(strength), key_bias)


def restrict(groups: Sequence[QueryGroup], rows: slice) -> tuple[QueryGroup, ...]:
    """Restrict groups to a slice of the query rows, counted anew, dropping empty ones."""
    cut = []
    for group in groups:
        first, last = max(group.rows.start, rows.start), min(group.rows.stop, rows.stop)
        if first < last:
            cut.append(group._replace(rows=slice(first - rows.start, last - rows.start)))
    return tuple(cut)


@dataclass(frozen=True, eq=False, repr=False)
class Attention:
    """The attention of one forward pass, called by every block.

    Attributes:
        function: the back end. groups: see `strength_groups`.
        segments: of the keys.
        probe: computes `scores` of the `probed` blocks from text queries and text+target keys.
    """

    function: AttentionFunction
    groups: Sequence[QueryGroup]
    segments: Segments
    probe: Probe | None = None
    probed: Collection[int] = ()
    scores: dict[int, Tensor] = field(default_factory=dict)

    def of(self, block: int) -> Callable[..., Tensor]:
        """The attention of block number `block`."""
        return partial(self, block)

    def __call__(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, rows: slice | None = None
    ) -> Tensor:
        """[B, heads, L, d] each -> [B, L, heads * d]; rows: of these query rows only."""
        if self.probe is not None and block in self.probed:
            text, target, _ = self.segments
            self.scores[block] = self.probe(q[:, :, :text], k[:, :, : text + target])
        groups = self.groups
        if rows is not None:
            q, groups = q[:, :, rows], restrict(groups, rows)
        return rearrange(self.function(q, k, v, groups), "b h l d -> b l (h d)")


def rotary_table(positions: Tensor, axes: Sequence[int], theta: float = 10000.0) -> Tensor:
    """Cosines and signed sines per position and channel, [2, L, sum(axes)] float32.

    A pair of channels (x, y) turns into (x cos - y sin, y cos + x sin): sines alternate in sign.
    Computed in float64 and rounded once; on the CPU, since some devices lack float64.

    Args:
        positions: [L, len(axes)] integer coordinates, on the CPU.
        axes: channels per coordinate.
    """
    angles = []
    for axis, channels in enumerate(axes):
        exponent = torch.arange(0, channels, 2, dtype=torch.float64, device="cpu")
        frequency = 1.0 / theta ** (exponent / channels)
        angles.append(positions[:, axis].double()[:, None] * frequency)
    angle = torch.cat(angles, dim=1)[..., None]  # [L, d / 2, 1]
    cosines, sines = angle.cos().expand(-1, -1, 2), torch.cat([-angle.sin(), angle.sin()], dim=-1)
    return rearrange([cosines, sines], "two l d pair -> two l (d pair)").float()


def grid_positions(rows: int, cols: int) -> Tensor:
    """Coordinates (0, row, column) in reading order, [rows * cols, 3] on the CPU."""
    axes = (torch.arange(n, device="cpu") for n in (1, rows, cols))
    return torch.cartesian_prod(*axes)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate channel pairs of [..., B, heads, L, d] by a `rotary_table`."""
    exact = x.float().unflatten(-1, (-1, 2))  # [..., d / 2, pair]
    if torch.compiler.is_compiling() or x.device.type not in COMPLEX:
        # What a compiler turns into one kernel; it leaves complex numbers alone.
        swapped = torch.stack([exact[..., 1], exact[..., 0]], dim=-1)
        cosines, sines = table.unflatten(-1, (-1, 2))
        turned = torch.addcmul(exact * cosines, swapped, sines)
    else:
        turn = torch.complex(table[0, ..., ::2], table[1, ..., 1::2])
        turned = torch.view_as_real(torch.view_as_complex(exact) * turn)
    return turned.flatten(-2).to(x.dtype)


def text_to_image(q_text: Tensor, k: Tensor) -> Tensor:
    """Attention of text rows over text and image keys; only the image columns are returned.

    The softmax leaves out reference keys (published code), so strength has no effect.

    Args:
        q_text: [B, heads, T, d].
        k: [B, heads, T + N, d], text keys first.

    Returns:
        [B, heads, T, N] float32.
    """
    # Scaled before the product: rows of d channels instead of T + N logits.
    logits = (q_text.float() / math.sqrt(q_text.shape[-1])) @ k.float().transpose(-1, -2)
    return logits.softmax(dim=-1)[..., q_text.shape[2] :]


@dataclass(frozen=True, eq=False, repr=False)
class MeanOfRows:
    """A probe that averages text-to-image attention over heads and weighted text rows.

    Attributes:
        row_weights: [b, T], summing to one per item. Only the last b items of the batch are read:
            under guidance, the conditional half.
    """

    row_weights: Tensor

    def __call__(self, q_text: Tensor, k: Tensor) -> Tensor:
        """Scores [b, N] from text queries [B, heads, T, d] and text+target keys."""
        items = self.row_weights.shape[0]
        probabilities = text_to_image(q_text[-items:], k[-items:]).mean(dim=1)
        # Not a matrix product: over hundreds of rows its rounding is ten times worse in float32.
        return (self.row_weights.to(probabilities)[:, :, None] * probabilities).sum(dim=1)
