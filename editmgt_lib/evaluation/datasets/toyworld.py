"""ToyWorld as a benchmark: pairs drawn on the spot, with exact targets, masks and a criterion.

Its pictures, instructions and criterion are the world's (`toyworld`), its figures are in
`metrics.toyworld`.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...checks import require_number
from ...toyworld.drawing import check_size
from ...toyworld.world import CATEGORIES, EditPair, change_mask, pair_at, render
from ..batches import pair_index
from ..items import Item, Store
from ..metrics.toyworld import METRICS


@dataclass(frozen=True)
class ToyWorld:
    """The first `samples` held-out pairs of each category; size: side of the pictures."""

    samples: int = 30
    seed: int = 0
    size: int = 256
    categories: tuple[str, ...] = CATEGORIES
    name = "toyworld"
    tasks = CATEGORIES
    average = "items"
    metrics = (*METRICS, "l1/source/fit-output", "l1/target/fit-output")

    def __post_init__(self) -> None:
        require_number("samples", self.samples, 1, 100_000, whole=True)
        require_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        check_size(self.size)

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Draw the pairs; `data` is not read."""
        for category in self.categories:
            for rank in range(self.samples):
                index = pair_index(category, rank)
                pair = pair_at(self.seed, index, True, category)
                yield self._item(f"toyworld-{category}-{rank:05}", index, pair, store)

    def _item(self, name: str, index: int, pair: EditPair, store: Store) -> Item:
        mask = change_mask(pair, self.size).astype(np.uint8) * 255
        pictures = {
            "source": render(pair.source, self.size),
            "target": render(pair.target, self.size),
            "mask": mask,
        }
        paths = {role: store(f"{name}-{role}.png", _png(p)) for role, p in pictures.items()}
        return Item(
            id=name,
            task=pair.category,
            instruction=pair.instruction,
            source=paths["source"],
            reference=paths["target"],
            mask=paths["mask"],
            extra={"seed": self.seed, "index": index, "seed_offset": index,
                   "category": pair.category},
        )  # fmt: skip


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
