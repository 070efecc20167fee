"""Held-out pairs, encoded in batches, for measurements inside a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..pictures.fitting import Tokens
from ..sampling.options import SamplingOptions
from ..text.instruction import Instruction
from ..toyworld.world import CATEGORIES, EditPair, change_mask, pair_at, render
from .options import EvaluationOptions

if TYPE_CHECKING:
    from ..pipeline import EditMGT


@dataclass(frozen=True, eq=False, repr=False)
class PairBatch:
    """B encoded pairs of one category.

    ranks: index of each pair within its category; indices: within the held-out data set.
    changed: bool [B, H, W], pixels that differ between source and target.
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
    """Index in the held-out data set of pair `rank` of a category.

    Categories share no index, because pairs of equal index have nearly equal sources.
    """
    return rank * len(CATEGORIES) + CATEGORIES.index(category)


def batch_count(options: EvaluationOptions, categories: Sequence[str], samples: int) -> int:
    """Count the batches of `pair_batches`."""
    return len(categories) * -(-samples // options.batch)


def pair_batches(
    model: "EditMGT", options: EvaluationOptions, categories: Sequence[str], samples: int
) -> Iterator[PairBatch]:
    """Encode the first `samples` held-out pairs of each category."""
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
    """Give each pair a seed that does not depend on the batch size."""
    return replace(sampling, seed=tuple(seed + index for index in batch.indices), **changes)
