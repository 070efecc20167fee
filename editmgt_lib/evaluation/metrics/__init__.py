"""What is measured of an edit: pixels, structure, perception, embeddings, and the edited region.

`find` looks metrics up by name, `load_networks` loads the networks they need, `read_sample` reads
an item and its result, `score` gives the scores; `register` adds a metric of one's own. Figures of
relevance maps, which only ToyWorld has the truth for, are in `localization`.
"""

from . import comparisons, similarities, toyworld  # noqa: F401  they register the metrics
from .base import Metric, NotApplicable, find, listing, needed_networks, register
from .localization import (
    OUTSIDE_TOLERANCE,
    OutsideError,
    Overlap,
    auc,
    best_iou,
    mask_cells,
    mean,
    outside_error,
    overlap,
)
from .networks import NETWORKS, load_networks
from .samples import Feature, Sample, read_sample
from .scoring import score

__all__ = [
    "NETWORKS",
    "OUTSIDE_TOLERANCE",
    "Feature",
    "Metric",
    "NotApplicable",
    "OutsideError",
    "Overlap",
    "Sample",
    "auc",
    "best_iou",
    "find",
    "listing",
    "load_networks",
    "mask_cells",
    "mean",
    "needed_networks",
    "outside_error",
    "overlap",
    "read_sample",
    "register",
    "score",
]
