"""Where an instruction acts: attention of a few blocks consolidated into one relevance map.

Pure functions on score maps (paper: multi-layer attention consolidation); nothing here knows the
transformer, the text encoders or pixels. Scores differ by up to about 1e-6 between processors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_choice, use_plain_values
from ..choices import FILTERS, ROWS, STATES, UPDATES
from ..errors import EditMGTError, InputError
from .filters import smooth

__all__ = [
    "Localization",
    "LocalizationOptions",
    "consolidate",
    "default_layers",
    "mean_scores",
    "rescale",
    "smooth",
]


@dataclass(frozen=True)
class LocalizationOptions:
    """How to read relevance off the attention; defaults reproduce the published inference.

    layers: first and last block, double-stream blocks counted first. None: the published 28..36 of
        14 + 28 (paper and code); see `default_layers` for other depths.
    words: words of the prompt whose text rows are averaged (the paper's M). Empty: `rows` decides
        (published code; its selection by word picks wrong rows with this text encoder).
    rows: text rows averaged when `words` is empty: "all", padding included (published code), or
        "content", the rows of prompt tokens.
    filter: "adaptive" (published), "gaussian" or "none".
    update: "step" recomputes it at every sampling step (published); "once" keeps the one given.
    state: target tokens when a map is read before sampling: "masked", as at the first step, or
        "source", the picture's own tokens, as at the last.
    Raises InputError.
    """

    layers: tuple[int, int] | None = None
    words: tuple[str, ...] = ()
    rows: str = "all"
    filter: str = "adaptive"
    update: str = "step"
    state: str = "masked"

    def __post_init__(self) -> None:
        use_plain_values(self)
        require_choice("rows", self.rows, ROWS)
        require_choice("update", self.update, UPDATES)
        require_choice("state", self.state, STATES)
        require_choice("filter", self.filter, FILTERS)
        words = self.words
        if not isinstance(words, tuple) or not all(isinstance(w, str) and w.strip() for w in words):
            raise InputError(f"words is {words!r}; use a tuple of non-empty words of the prompt")
        if self.layers is not None:
            _check_layers(self.layers)

    def block_range(self, num_double: int, num_single: int) -> range:
        """Blocks to capture in a transformer of this depth; InputError if it is too shallow."""
        first, last = self.layers or default_layers(num_double, num_single)
        if last >= num_double + num_single:
            raise InputError(
                f"layers is {(first, last)}, but the model has {num_double + num_single} blocks; "
                f"use block numbers from 0 to {num_double + num_single - 1}"
            )
        return range(first, last + 1)


def _check_layers(layers: Any) -> None:
    whole = isinstance(layers, tuple) and len(layers) == 2
    whole = whole and all(isinstance(n, int) and not isinstance(n, bool) for n in layers)
    if not whole or not 0 <= layers[0] <= layers[1]:
        raise InputError(f"layers is {layers!r}; use (first, last) with 0 <= first <= last")


def default_layers(num_double: int, num_single: int) -> tuple[int, int]:
    """Scale the published range, 28..36 of 14 + 28, to another depth: first and last block.

    The range covers single-stream blocks 14..22 of 28, at least one; without any, the last block.
    """
    if num_single == 0:
        return num_double - 1, num_double - 1
    first = num_single * 14 // 28
    last = max(first, (num_single * 23 + 14) // 28 - 1)
    return num_double + first, num_double + last


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """How relevant each position is to the instruction.

    relevance: float32 [B, h, w], 0..1, on the transformer's position grid (published: 32 x 32).
    options: those it was read with; sampling reuses them to update the map.
    """

    relevance: Tensor
    options: LocalizationOptions

    def item(self, k: int) -> "Localization":
        """Map k alone, as a view; IndexError if there is none."""
        k = range(len(self.relevance))[k]
        return replace(self, relevance=self.relevance[k : k + 1])

    def upsample(self, rows: int, cols: int) -> Tensor:
        """Relevance on the token grid, float32 [B, rows, cols].

        Bicubic (published: 32 x 32 to 64 x 64), which overshoots 0..1 slightly; unchanged at equal
        size.
        """
        if tuple(self.relevance.shape[1:]) == (rows, cols):
            return self.relevance
        grown = F.interpolate(
            self.relevance[:, None], size=(rows, cols), mode="bicubic", align_corners=False
        )
        return grown[:, 0]

    def held(self, threshold: float, rows: int, cols: int) -> Tensor:
        """Tokens to keep: bool [B, rows, cols], relevance below `threshold` (lambda, 0..1).

        None at 0 and all at 1, although upsampling overshoots both. In between, a token within
        about 1e-5 of the threshold may be held on one processor and not on another.
        """
        relevance = self.upsample(rows, cols)
        if threshold in (0, 1):
            return torch.full_like(relevance, threshold == 1, dtype=torch.bool)
        return relevance < threshold

    def __repr__(self) -> str:
        return f"Localization(relevance={list(self.relevance.shape)}, options={self.options})"


def mean_scores(maps: Sequence[Tensor]) -> Tensor:
    """Average text-to-image attention over blocks, heads and text rows: float32 [B, N].

    maps: one per block, conditional half only, each [B, heads, rows, N] or already [B, N].
    """
    if not maps:
        raise InputError("maps is empty; capture at least one block")
    return torch.stack([m.float().mean((1, 2)) if m.ndim == 4 else m.float() for m in maps]).mean(0)


def rescale(scores: Tensor) -> Tensor:
    """Map each item of [B, N] to 0..1 by its own range, widened by 1e-8 (published code)."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low + 1e-8)


def consolidate(
    scores: Tensor, grid: tuple[int, int], options: LocalizationOptions, check: bool = True
) -> Localization:
    """Turn mean attention into relevance: rescale, then smooth.

    scores: [B, h * w], row-major; grid: (h, w). check: look at the values, which waits for the
    device.
    Raises InputError for a wrong length, EditMGTError for values that are not finite.
    """
    rows, cols = grid
    if scores.ndim != 2 or scores.shape[1] != rows * cols:
        raise InputError(
            f"scores has shape {list(scores.shape)}; "
            f"a {rows} x {cols} grid needs [B, {rows * cols}]"
        )
    if check and not torch.isfinite(scores).all():
        raise EditMGTError("attention scores are not finite; compute in float32 or bfloat16")
    unit = rescale(scores.float()).reshape(-1, rows, cols)
    return Localization(smooth(unit, options.filter), options)
