"""What is evaluated, and how much of it."""

from collections.abc import Callable
from dataclasses import dataclass

from ..checks import require_choice, require_number
from ..choices import HOLD_RULES
from ..errors import InputError
from ..localization.maps import LocalizationOptions
from ..sampling.options import SamplingOptions
from ..toyworld.world import CATEGORIES
from .metrics import OUTSIDE_TOLERANCE

Progress = Callable[[int, int, str], None]
"""Called after each batch with (edits done, edits in all, what is going on)."""

LOCAL = tuple(name for name in CATEGORIES if name not in ("background", "style"))
"""Categories whose true mask is a part of the picture; in the others it is nearly everything."""
FALLBACK_THRESHOLD = 0.1
"""Lambda where a checkpoint's own default is 0, off: the upper end of the paper's best range."""
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class EvaluationOptions:
    """How `evaluate` works. Raises InputError naming option, value and allowed range.

    samples: held-out pairs per category, 1..100000; seed: 0..2**32 - 1, of pairs and sampling.
    categories: which ones, in report order.
    sampling, localization: None takes the model's own defaults. threshold: lambda of the edits
        with region-hold, above 0 to 1; None takes that of the sampling options, or
        FALLBACK_THRESHOLD where it is 0.
    batch: edits at a time, 1..256. tolerance: see `metrics.outside_error`, 0..1.
    rows: pairs per category kept for the contact sheet, 0..16.
    sweep: also measure success and outside error at each of `thresholds`, under each of
        `hold_rules`, with `sweep_samples` pairs per category (None: at most 10).
    layers: also measure localisation per block, with `layer_samples` pairs per local category.
    """

    samples: int = 30
    seed: int = 0
    categories: tuple[str, ...] = CATEGORIES
    sampling: SamplingOptions | None = None
    localization: LocalizationOptions | None = None
    threshold: float | None = None
    batch: int = 8
    tolerance: float = OUTSIDE_TOLERANCE
    rows: int = 2
    sweep: bool = False
    sweep_samples: int | None = None
    thresholds: tuple[float, ...] = THRESHOLDS
    hold_rules: tuple[str, ...] = ()
    layers: bool = False
    layer_samples: int | None = None

    def __post_init__(self) -> None:
        require_number("samples", self.samples, 1, 100_000, whole=True)
        require_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        require_number("batch", self.batch, 1, 256, whole=True)
        require_number("tolerance", self.tolerance, 0, 1)
        require_number("rows", self.rows, 0, 16, whole=True)
        for name in ("sweep_samples", "layer_samples"):
            if (value := getattr(self, name)) is not None:
                require_number(name, value, 1, 100_000, whole=True)
        if self.threshold is not None:
            require_number("threshold", self.threshold, 0, 1)
            if self.threshold == 0:
                raise InputError("threshold is 0, which turns region-hold off; use up to 1")
        _require_names("categories", self.categories, CATEGORIES)
        _require_names("hold_rules", self.hold_rules or HOLD_RULES, HOLD_RULES)
        if not isinstance(self.thresholds, tuple) or not self.thresholds:
            raise InputError(f"thresholds is {self.thresholds!r}; use a tuple of numbers, 0 to 1")
        for threshold in self.thresholds:
            require_number("thresholds", threshold, 0, 1)


def _require_names(option: str, names: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    if not isinstance(names, tuple) or not names or len(set(names)) < len(names):
        raise InputError(f"{option} is {names!r}; use a tuple of different names, at least one")
    for name in names:
        require_choice(option, name, allowed)
