"""Key-value reuse between steps: an approximation around the exact predictor.

Every stream attends to every other, so keys and values change at each step, but those of the
reference and of known tokens change little. A reusing step computes only the text and the tokens
that are masked or new, as a picture of their own, and attends to cached keys and values.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.attention import Attention, Segments, strength_groups
from ..models.conditioning import Conditioning, Prediction
from ..models.embeddings import from_positions, to_positions
from .predictor import Predictor

KeysValues = tuple[Tensor, Tensor]  # of target and reference, [B, heads, N + R, d] each


@dataclass(frozen=True, eq=False, repr=False)
class CachedAttention(Attention):
    """Attention over fresh and cached keys and values, which updates `cache`.

    Attributes:
        cache: keys and values per block; empty if this step computes all.
        positions: [B, n] target positions computed by this step; None: all of them.
        record: whether to update the cache, for a later step.
    """

    cache: dict[int, KeysValues] | None = None
    positions: Tensor | None = None
    record: bool = False

    def __call__(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, rows: slice | None = None
    ) -> Tensor:
        if block in self.cache:
            k, v = (self._complete(*pair) for pair in zip((k, v), self.cache[block], strict=True))
        text = self.segments.text
        if self.record:
            self.cache[block] = k[:, :, text:], v[:, :, text:]
        return super().__call__(block, q, k, v, rows)

    def _complete(self, fresh: Tensor, cached: Tensor) -> Tensor:
        text, target, _ = self.segments
        if self.positions is None:
            return torch.cat([fresh, cached[:, :, target:]], dim=2)
        words, image = fresh[:, :, :text], fresh[:, :, text:]
        index = self.positions[:, None, :, None].expand_as(image)
        return torch.cat([words, cached.scatter(2, index, image)], dim=2)


class ReusingPredictor(Predictor):
    """A `Predictor` that reuses keys and values as `options.reuse` says."""

    def __init__(self, *args, **named) -> None:
        super().__init__(*args, **named)
        self.cache: dict[int, KeysValues] = {}
        self.previous_ids: Tensor | None = None

    def predict(self, ids: Tensor, step: int) -> Prediction:
        """As the base; computes all at the first, every `refresh`-th and newly guided steps."""
        options = self.options
        halves = 2 if options.guided_at(step) else 1
        ids = ids.repeat(halves, 1, 1)
        cached = 0 if self.previous_ids is None else len(self.previous_ids)
        if not options.reuses_at(step) or not self.cache or cached < len(ids):
            self.cache = {}
        self.cache = {b: (k[-len(ids) :], v[-len(ids) :]) for b, (k, v) in self.cache.items()}
        record = options.reuses_at(step + 1)
        prediction = self._predict(ids, step, self.conditioning.last(len(ids)), record)
        self.previous_ids = ids
        if not record:
            self.cache = {}
        return prediction

    def _predict(self, ids: Tensor, step: int, c: Conditioning, record: bool) -> Prediction:
        if not self.cache:
            return self.transformer.step(ids, step, c, self._attention(c, c.segments, None, record))
        text, target, _ = c.segments
        rotary = c.rotary[:, : text + target]
        beside = replace(c, reference=None, reference_modulations=(), rotary=rotary)
        if self.options.reuse == "reference":
            attention = self._attention(c, beside.segments, None, record)
            return self.transformer.step(ids, step, beside, attention)
        config = self.transformer.config
        previous = self.previous_ids[-len(ids) :]
        rows = stale_positions(ids, previous, config.mask_token_id, config.stride)
        attention = self._attention(c, Segments(text, rows.shape[1], 0), rows, record)
        part = _picture_of(ids, rows, config.stride)
        prediction = self.transformer.step(part, step, _at(beside, rows), attention)
        return replace(prediction, features=_spread(prediction.features, rows, c.grid, ids))

    def _attention(
        self, c: Conditioning, queries: Segments, rows: Tensor | None, record: bool
    ) -> CachedAttention:
        i = c.injection
        groups = strength_groups(queries, c.segments, i.strength, i.scope, c.text)
        return CachedAttention(
            self.transformer.attention, groups, c.segments, self.probe, self.blocks,
            cache=self.cache, positions=rows, record=record,
        )  # fmt: skip


def stale_positions(ids: Tensor, previous_ids: Tensor, mask_id: int, side: int) -> Tensor:
    """Positions [B, n], n > 0, whose tokens [B, H, W] are masked or changed since the last step.

    side: tokens along a position. Items with fewer positions than others repeat their first.
    """
    tokens = (ids == mask_id) | (ids != previous_ids)
    stale = to_positions(tokens, side).flatten(2).any(-1)
    counts = stale.sum(-1, keepdim=True)
    most = max(int(counts.max()), 1)
    rows = stale.byte().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return rows.where(torch.arange(most, device=rows.device) < counts, rows[:, :1])


def _picture_of(ids: Tensor, rows: Tensor, side: int) -> Tensor:
    """Gather the tokens of positions [B, n] as a picture of n x 1 positions."""
    parts = to_positions(ids, side)
    parts = parts.gather(1, rows[..., None, None].expand(-1, -1, side, side))
    return from_positions(parts, (rows.shape[1], 1))


def _at(c: Conditioning, rows: Tensor) -> Conditioning:
    """Conditioning for that picture, each item with rotary tables of its own."""
    text = c.segments.text
    words = c.rotary[:, None, None, :text].expand(-1, len(rows), -1, -1, -1)  # [2, B, 1, T, d]
    image = c.rotary[:, text:][:, rows][:, :, None]  # [2, B, 1, n, d]
    return replace(c, rotary=torch.cat([words, image], dim=3), grid=(rows.shape[1], 1))


def _spread(features: Tensor, rows: Tensor, grid: tuple[int, int], ids: Tensor) -> Tensor:
    """Scatter its features to [B, H, W, C], zero where nothing was computed."""
    side = ids.shape[1] // grid[0]
    parts = to_positions(features, side)  # [B, n, side, side, C]
    spread = parts.new_zeros(len(ids), grid[0] * grid[1], *parts.shape[2:])
    index = rows[..., None, None, None].expand_as(parts)
    return from_positions(spread.scatter(1, index, parts), grid)
