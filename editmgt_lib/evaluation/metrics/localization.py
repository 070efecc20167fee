"""Error outside the edit, and how well a relevance map finds it. Pure numpy functions.

Pixels and relevance differ by about 1e-6 between processors. What lies that close to a threshold,
or to another score, may count differently: one pixel or cell of `moved`, `iou` or `auc`.
"""

from typing import NamedTuple

import numpy as np

from ...errors import InputError

OUTSIDE_TOLERANCE = 0.1
"""Largest difference (0..1) in any channel at which a pixel counts as unchanged."""


class OutsideError(NamedTuple):
    """Change of the pixels that should have stayed, both 0..1; None if there are none.

    mean: mean absolute difference from the source; share: fraction beyond the tolerance.
    """

    mean: float | None
    share: float | None


class Overlap(NamedTuple):
    """Localisation figures, all in 0..1; None if the true mask is empty or full.

    auc: probability that a random changed cell is more relevant than a random other one, ties
    counting half (0.5 is chance).
    iou: intersection over union of the cells with relevance >= `threshold` and the true ones.
    best_iou, best_threshold: the highest IoU any threshold gives, and that threshold.
    """

    auc: float | None
    iou: float | None
    best_iou: float | None
    best_threshold: float | None


def outside_error(
    result: np.ndarray,
    source: np.ndarray,
    changed: np.ndarray,
    tolerance: float = OUTSIDE_TOLERANCE,
) -> OutsideError:
    """Compare two pictures [H, W, 3] outside `changed`, bool [H, W].

    Raises InputError if the sizes differ.
    """
    if result.shape != source.shape or result.shape[:2] != changed.shape:
        raise InputError(
            f"result {result.shape}, source {source.shape} and mask {changed.shape} differ in "
            "size; give pictures [H, W, 3] and a mask [H, W]"
        )
    outside = ~changed.astype(bool)
    if not outside.any():
        return OutsideError(None, None)
    difference = np.abs(result[outside].astype(np.float64) - source[outside])
    moved = difference.max(-1) > tolerance
    return OutsideError(float(difference.mean()), float(moved.mean()))


def mask_cells(changed: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Mark the token cells that contain a changed pixel: bool [H, W] -> bool [rows, cols].

    Raises InputError if the grid does not divide the picture.
    """
    height, width = changed.shape
    if height % rows or width % cols:
        raise InputError(
            f"a mask of {height}x{width} pixels has no whole {rows}x{cols} cells; use a picture "
            "whose sides are multiples of the grid"
        )
    return changed.reshape(rows, height // rows, cols, width // cols).any((1, 3))


def auc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Area under the ROC curve, exact with ties; None if `truth` is all True or all False.

    Rank-based (Mann-Whitney): the rank sum of the true cells counts the others below them.
    """
    truth = np.asarray(truth, bool).ravel()
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    _, index, counts = np.unique(np.ravel(scores), return_inverse=True, return_counts=True)
    last = counts.cumsum()  # highest rank, from 1, of each distinct score
    ranks = (last - (counts - 1) / 2)[index.ravel()]
    above = ranks[truth].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def best_iou(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float] | None:
    """Highest intersection over union of `scores >= t` and `truth`, and the highest such t.

    Every distinct score is tried. None if `truth` is empty.
    """
    truth = np.asarray(truth, bool).ravel()
    if not truth.any():
        return None
    order = np.argsort(-np.ravel(scores), kind="stable")
    ordered, hits = np.ravel(scores)[order], truth[order].cumsum()
    taken = np.arange(1, len(order) + 1)
    overlap = hits / (taken + truth.sum() - hits)
    ends = np.append(ordered[1:] != ordered[:-1], True)  # a threshold takes all equal scores
    best = int(np.where(ends, overlap, -1).argmax())
    return float(overlap[best]), float(ordered[best])


def overlap(relevance: np.ndarray, truth: np.ndarray, threshold: float) -> Overlap:
    """Compare one relevance map with the true mask, both [rows, cols]."""
    area = auc(relevance, truth)
    best = best_iou(relevance, truth)
    if area is None or best is None:
        return Overlap(None, None, None, None)
    chosen, true = relevance >= threshold, truth.astype(bool)
    iou = float((chosen & true).sum() / (chosen | true).sum())
    return Overlap(area, iou, *best)


def mean(values: list[float | None]) -> float | None:
    """Mean, ignoring None; None if all are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
