"""ToyWorld as a benchmark: pairs drawn on the spot, with exact targets, masks and a criterion.

Its pictures, instructions and rules are the world's (`toyworld`); the criterion is `success`.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...toyworld.drawing import GRID
from ...toyworld.world import CATEGORIES, EditPair, change_mask, pair_at, render
from ..batches import pair_index
from ..items import Item, Store
from ..metrics.base import Metric, Networks, NotApplicable, register
from ..metrics.localization import OUTSIDE_TOLERANCE, mask_cells, outside_error, overlap
from ..metrics.samples import Sample
from ..options import FALLBACK_THRESHOLD
from ..success import judge


@dataclass(frozen=True)
class ToyWorld:
    """The first `samples` held-out pairs of each category; size: side of the pictures."""

    samples: int = 30
    seed: int = 0
    size: int = 128
    name = "toyworld"
    tasks = CATEGORIES
    average = "items"
    metrics = (
        "toyworld/success", "toyworld/outside", "toyworld/moved", "toyworld/auc", "toyworld/iou",
        "toyworld/best-iou", "l1/source/fit-output", "l1/target/fit-output",
    )  # fmt: skip

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Draw the pairs; `data` is not read."""
        for category in CATEGORIES:
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


# ---- metrics that only this world can have


def pair_of(sample: Sample) -> EditPair:
    """The pair that an item was drawn as. Raises NotApplicable if it is of another dataset."""
    if "index" not in sample.extra or "category" not in sample.extra:
        raise NotApplicable("only ToyWorld has it")
    extra = sample.extra
    return pair_at(extra["seed"], extra["index"], True, extra["category"])


def _success(sample: Sample, _: Networks) -> float:
    result, _ = sample.pair("source")
    return float(judge(result / np.float32(255), pair_of(sample)).succeeded)


def _outside(which: str) -> Callable[[Sample, Networks], float]:
    def measure(sample: Sample, _: Networks) -> float:
        result, source = (pixels / np.float32(255) for pixels in sample.pair("source"))
        return getattr(outside_error(result, source, sample.mask), which)

    return measure


def _overlap(which: str) -> Callable[[Sample, Networks], float]:
    def measure(sample: Sample, _: Networks) -> float:
        if sample.relevance is None:
            raise NotApplicable("the editor gives no map")
        edge = sample.mask.shape[0] // GRID
        cells = sample.relevance.reshape(GRID, edge, GRID, edge).mean((1, 3), dtype=np.float64)
        value = getattr(
            overlap(cells, mask_cells(sample.mask, GRID, GRID), FALLBACK_THRESHOLD), which
        )
        if value is None:
            raise NotApplicable("all or nothing is to change")
        return value

    return measure


_BOTH = ("inside", "outside")
for _metric in (
    Metric("toyworld/success", "share of edits that show the target and nothing else, 0..1",
           _success, "higher", 0.0),
    Metric("toyworld/outside", "mean absolute error outside the true mask, 0..1",
           _outside("mean"), "lower", 1.0, ("source", "outside")),
    Metric("toyworld/moved", f"share of outside pixels that differ by more than "
           f"{OUTSIDE_TOLERANCE:g}", _outside("share"), "lower", 1.0, ("source", "outside")),
    Metric("toyworld/auc", "a changed cell is more relevant than another, 0.5 is chance",
           _overlap("auc"), "higher", 0.0, _BOTH),
    Metric("toyworld/iou", f"of cells with relevance of at least {FALLBACK_THRESHOLD:g} and the "
           "true ones, 0..1", _overlap("iou"), "higher", 0.0, _BOTH),
    Metric("toyworld/best-iou", "the highest that any threshold gives, 0..1",
           _overlap("best_iou"), "higher", 0.0, _BOTH),
):  # fmt: skip
    register(_metric)
