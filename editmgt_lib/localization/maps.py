"""Where an instruction acts: attention scores of a few blocks, consolidated into one relevance map.

Pure functions on score maps (paper: multi-layer attention consolidation); nothing here knows the
transformer, the text encoder or pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_choice, require_number
from ..errors import EditMGTError, InputError
from .filters import FILTERS, smooth

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
    """How relevance is read off the attention; defaults reproduce the published inference.

    layers: first and last block, counted through double-stream then single-stream blocks. None:
        the published 28..36 of 14 + 28 (paper and code), for other depths see `default_layers`.
    words: words of the prompt whose text rows are averaged (the paper's M). Empty: no choice by
        word (published code; its own choice by word reads wrong rows with this text encoder).
    rows: text rows that count when `words` is empty. "all": every row, padding included
        (published code); "content": rows of real prompt tokens.
    filter: "adaptive" (published), "gaussian", "bilateral", "morphology" or "none".
    filter_strength: window scale, 0.5..2 (published 1).
    preserve_peaks: keep values above the 90th percentile close to the raw map (published: yes).
    update: "step" (published: the map is read anew at every sampling step) or "once" (the map
        given to the sampler stays as it is).
    state: what stands in the target stream when a map is read before sampling: "masked" (nothing
        known yet, as at the first step) or "source" (the picture's own tokens, as at the last).
    Raises InputError.
    """

    layers: tuple[int, int] | None = None
    words: tuple[str, ...] = ()
    rows: str = "all"
    filter: str = "adaptive"
    filter_strength: float = 1.0
    preserve_peaks: bool = True
    update: str = "step"
    state: str = "masked"

    def __post_init__(self) -> None:
        require_choice("rows", self.rows, ("all", "content"))
        require_choice("update", self.update, ("step", "once"))
        require_choice("state", self.state, ("masked", "source"))
        require_choice("filter", self.filter, FILTERS)
        require_number("filter_strength", self.filter_strength, 0.5, 2.0)
        if not isinstance(self.preserve_peaks, bool):
            raise InputError(f"preserve_peaks is {self.preserve_peaks!r}; use True or False")
        words = self.words
        if not isinstance(words, tuple) or not all(isinstance(w, str) and w.strip() for w in words):
            raise InputError(f"words is {words!r}; use a tuple of non-empty words of the prompt")
        if self.layers is not None:
            _check_layers(self.layers)

    def block_range(self, num_double: int, num_single: int) -> range:
        """Blocks to capture in a transformer of this depth; InputError where `layers` leaves it."""
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
    """First and last block of the published range, 28..36 of 14 + 28, at the same relative depth.

    That is single-stream blocks 14..22 of 28, at least one; without any, the last block.
    """
    if num_single == 0:
        return num_double - 1, num_double - 1
    first = num_single * 14 // 28
    last = max(first, (num_single * 23 + 14) // 28 - 1)
    return num_double + first, num_double + last


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """How much each position has to do with the instruction.

    relevance: float32 [B, h, w], 0..1, on the position grid inside the transformer (published:
        32 x 32).
    options: those it was made with, so that sampling can go on in the same way at each step.
    """

    relevance: Tensor
    options: LocalizationOptions

    def upsample(self, rows: int, cols: int) -> Tensor:
        """Relevance on the token grid, float32 [B, rows, cols].

        Bicubic, which may leave 0..1 a little (published: 32 x 32 to 64 x 64); the relevance
        itself at equal size.
        """
        if tuple(self.relevance.shape[1:]) == (rows, cols):
            return self.relevance
        grown = F.interpolate(
            self.relevance[:, None], size=(rows, cols), mode="bicubic", align_corners=False
        )
        return grown[:, 0]

    def held(self, threshold: float, rows: int, cols: int) -> Tensor:
        """Tokens to keep: bool [B, rows, cols], relevance below `threshold` (lambda, 0..1).

        At 1 all of them: the most relevant token has exactly 1, and upsampling overshoots it.
        """
        low = self.upsample(rows, cols) < threshold
        return low if threshold < 1 else torch.ones_like(low)

    def __repr__(self) -> str:
        return f"Localization(relevance={list(self.relevance.shape)}, options={self.options})"


def mean_scores(maps: Sequence[Tensor]) -> Tensor:
    """Mean of captured text-to-image attention over blocks, heads and text rows: float32 [B, N].

    maps: one per block, conditional half only, each [B, heads, rows, N] or reduced to [B, N].
    """
    if not maps:
        raise InputError("maps is empty; capture at least one block")
    return torch.stack([m.float().mean((1, 2)) if m.ndim == 4 else m.float() for m in maps]).mean(0)


def rescale(scores: Tensor) -> Tensor:
    """Map each item of [B, N] to 0..1 by its own range, widened by 1e-8 (published code)."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low + 1e-8)


def consolidate(
    scores: Tensor, grid: tuple[int, int], options: LocalizationOptions
) -> Localization:
    """Relevance from mean attention: rescale, then smooth.

    scores: [B, N], N = h * w in row-major order; grid: (h, w), any shape.
    Raises InputError when N is not h * w, EditMGTError when the attention is not finite.
    """
    rows, cols = grid
    if scores.ndim != 2 or scores.shape[1] != rows * cols:
        raise InputError(
            f"scores has shape {list(scores.shape)}; "
            f"a {rows} x {cols} grid needs [B, {rows * cols}]"
        )
    if not torch.isfinite(scores).all():
        raise EditMGTError("attention scores are not finite; compute in float32 or bfloat16")
    unit = rescale(scores.float()).reshape(-1, rows, cols)
    relevance = smooth(unit, options.filter, options.filter_strength, options.preserve_peaks)
    return Localization(relevance, options)
