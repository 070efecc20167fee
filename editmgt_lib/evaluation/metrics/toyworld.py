"""What only ToyWorld can measure: success by its criterion, and maps against the true mask."""

from collections.abc import Callable

import numpy as np

from ...toyworld.drawing import GRID
from ...toyworld.success import Verdict, judge
from ...toyworld.world import EditPair, pair_at
from .base import Metric, Networks, NotApplicable, register
from .localization import OUTSIDE_TOLERANCE, Overlap, mask_cells, outside_error, overlap
from .samples import Sample

IOU_THRESHOLD = 0.1
SUCCESS, OUTSIDE = "toyworld/success", "toyworld/outside"
MOVED = f"toyworld/moved/t{OUTSIDE_TOLERANCE:g}"


def pair_of(sample: Sample) -> EditPair:
    """The pair that an item was drawn as. Raises NotApplicable if it is of another dataset."""
    _require_toyworld(sample)
    extra = sample.extra
    return pair_at(extra["seed"], extra["index"], True, extra["category"])


def _require_toyworld(sample: Sample) -> None:
    if "index" not in sample.extra or "category" not in sample.extra:
        raise NotApplicable("only ToyWorld has it")


def verdict_of(sample: Sample) -> Verdict:
    """Judge a result by the criterion. Raises NotApplicable as `pair_of`."""
    result, _ = sample.pair("source")
    return judge(result / np.float32(255), pair_of(sample))


def cells_of_map(sample: Sample) -> np.ndarray:
    """Relevance by token, float64 [GRID, GRID]. Raises NotApplicable where there is no map."""
    if sample.relevance is None:
        raise NotApplicable("the editor gives no map")
    edge = sample.mask.shape[0] // GRID
    return sample.relevance.reshape(GRID, edge, GRID, edge).mean((1, 3), dtype=np.float64)


def overlap_of(sample: Sample, threshold: float) -> Overlap:
    """Compare the map with the true mask, by token. Raises NotApplicable where there is no map."""
    return overlap(cells_of_map(sample), mask_cells(sample.mask, GRID, GRID), threshold)


def _success(sample: Sample, _: Networks) -> float:
    return float(verdict_of(sample).succeeded)


def _outside(which: str) -> Callable[[Sample, Networks], float]:
    def measure(sample: Sample, _: Networks) -> float:
        _require_toyworld(sample)
        result, source = (pixels / np.float32(255) for pixels in sample.pair("source"))
        return getattr(outside_error(result, source, sample.mask), which)

    return measure


def _overlap(which: str) -> Callable[[Sample, Networks], float]:
    def measure(sample: Sample, _: Networks) -> float:
        _require_toyworld(sample)
        value = getattr(overlap_of(sample, IOU_THRESHOLD), which)
        if value is None:
            raise NotApplicable("all or nothing is to change")
        return value

    return measure


_BOTH = ("inside", "outside")
METRICS = tuple(
    register(metric).name
    for metric in (
        Metric(SUCCESS, "share of edits that show the target and nothing else, 0..1",
               _success, "higher", 0.0),
        Metric(OUTSIDE, "mean absolute error outside the true mask, 0..1",
               _outside("mean"), "lower", 1.0, ("source", "outside")),
        Metric(MOVED, "share of the pixels outside the true mask that differ by more than t",
               _outside("share"), "lower", 1.0,
               ("source", "outside")),
        Metric("toyworld/auc", "chance that a changed cell is more relevant than another, 0..1",
               _overlap("auc"), "higher", 0.0, _BOTH),
        Metric(f"toyworld/iou/t{IOU_THRESHOLD:g}", "intersection over union of the cells with "
               "relevance of at least t and those that change, 0..1", _overlap("iou"), "higher",
               0.0, _BOTH),
        Metric("toyworld/iou/best", "the highest such value that any t gives, 0..1",
               _overlap("best_iou"), "higher", 0.0, _BOTH),
    )
)  # fmt: skip
