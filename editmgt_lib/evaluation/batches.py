"""Held-out pairs in batches, ready to edit, and one edit of a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..localization.maps import Localization
from ..pictures.fitting import Tokens
from ..sampling.loop import StepEvent
from ..sampling.options import SamplingOptions
from ..text.instruction import Instruction
from ..toyworld.world import CATEGORIES, EditPair, change_mask, pair_at, render
from .options import EvaluationOptions

if TYPE_CHECKING:
    from ..pipeline import EditMGT


@dataclass(frozen=True, eq=False, repr=False)
class PairBatch:
    """B pairs of one category, encoded.

    ranks: place of each pair within its category; indices: its number in the held-out data set;
    tokens, instruction: of the sources.
    changed: bool [B, H, W], the pixels in which source and target differ.
    """

    category: str
    ranks: range
    indices: tuple[int, ...]
    pairs: tuple[EditPair, ...]
    tokens: Tokens
    instruction: Instruction
    changed: np.ndarray

    @property
    def sources(self) -> np.ndarray:
        """float32 [B, H, W, 3] in 0..1."""
        return self.tokens.canvas.source.numpy()

    def __repr__(self) -> str:
        return f"PairBatch({self.category}, {self.ranks[0]}..{self.ranks[-1]})"


def pair_index(category: str, rank: int) -> int:
    """Number in the held-out data set of pair `rank` of a category.

    No two categories share a number: equal numbers have nearly equal sources.
    """
    return rank * len(CATEGORIES) + CATEGORIES.index(category)


def batch_count(options: EvaluationOptions, categories: Sequence[str], samples: int) -> int:
    """How many batches `pair_batches` gives."""
    return len(categories) * -(-samples // options.batch)


def pair_batches(
    model: "EditMGT", options: EvaluationOptions, categories: Sequence[str], samples: int
) -> Iterator[PairBatch]:
    """The first `samples` held-out pairs of each category, batch by batch."""
    size = model.settings.resolution
    for category in categories:
        for start in range(0, samples, options.batch):
            ranks = range(start, min(start + options.batch, samples))
            indices = tuple(pair_index(category, rank) for rank in ranks)
            pairs = tuple(pair_at(options.seed, index, True, category) for index in indices)
            pictures = torch.from_numpy(np.stack([render(pair.source, size) for pair in pairs]))
            yield PairBatch(
                category,
                ranks,
                indices,
                pairs,
                model.encode_image(pictures.float() / 255),
                model.encode_instruction([pair.instruction for pair in pairs]),
                np.stack([change_mask(pair, size) for pair in pairs]),
            )


def seeded(sampling: SamplingOptions, batch: PairBatch, seed: int, **changes) -> SamplingOptions:
    """The options with one seed per pair, the same whatever the batch size."""
    return replace(sampling, seed=tuple(seed + index for index in batch.indices), **changes)


@dataclass(frozen=True, eq=False, repr=False)
class Edited:
    """pictures: float32 [B, H, W, 3]; held: bool [B, rows, cols], tokens held at the last step."""

    pictures: np.ndarray
    held: np.ndarray

    def __repr__(self) -> str:
        return f"Edited({self.pictures.shape}, {self.held.mean():.0%} held)"


def edit_batch(
    model: "EditMGT",
    batch: PairBatch,
    sampling: SamplingOptions,
    localization: Localization | None = None,
) -> Edited:
    """Edit all pairs of a batch; `localization` is needed where `sampling.threshold` is above 0."""
    held: list[Tensor | None] = [None]

    def watch(event: StepEvent) -> None:
        held[0] = event.held

    guide_by = localization if sampling.threshold > 0 else None
    tokens, _ = model.sample(
        batch.tokens,
        batch.instruction,
        sampling,
        localization=guide_by,
        callback=watch,
        batched=True,
    )
    pictures = model.decode(tokens).image.cpu().float().numpy()
    last = torch.zeros_like(tokens.ids, dtype=torch.bool) if held[0] is None else held[0]
    return Edited(pictures, last.cpu().numpy())
