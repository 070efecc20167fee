"""Options of an evaluation on ToyWorld."""

from dataclasses import dataclass, replace

from ..checks import require_choice, require_number
from ..choices import HOLD_RULES
from ..errors import InputError
from ..localization.maps import LocalizationOptions
from ..sampling.options import SamplingOptions
from ..settings import Settings
from ..toyworld.world import CATEGORIES

LOCAL = tuple(name for name in CATEGORIES if name not in ("background", "style"))
"""Categories that change part of the picture; background and style change nearly all of it."""
FALLBACK_THRESHOLD = 0.1
"""Lambda if the checkpoint's default is 0, off: the upper end of the paper's best range."""
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, and how much of it. Raises InputError.

    samples: held-out pairs per category, 1..100000; seed: of pairs and sampling, 0..2**32 - 1.
    categories: in report order.
    sampling, localization: None is the model's defaults. threshold: lambda of the edits with
        region-hold, above 0 to 1; None is that of the sampling options, or FALLBACK_THRESHOLD.
    rows: pairs per category kept for the contact sheet, 0..16.
    sweep: also measure success and outside error at each of `thresholds` under each of
        `hold_rules` (none: that of the sampling options).
    layers: also measure localisation per block, for local categories, `batch` (1..256) pairs at a
        time.
    study_samples: at most this many pairs per category in sweep and layers, 1..100000.
    """

    samples: int = 30
    seed: int = 0
    categories: tuple[str, ...] = CATEGORIES
    sampling: SamplingOptions | None = None
    localization: LocalizationOptions | None = None
    threshold: float | None = None
    rows: int = 2
    sweep: bool = False
    thresholds: tuple[float, ...] = THRESHOLDS
    hold_rules: tuple[str, ...] = ()
    layers: bool = False
    batch: int = 8
    study_samples: int = 10

    def __post_init__(self) -> None:
        require_number("samples", self.samples, 1, 100_000, whole=True)
        require_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        require_number("batch", self.batch, 1, 256, whole=True)
        require_number("rows", self.rows, 0, 16, whole=True)
        require_number("study_samples", self.study_samples, 1, 100_000, whole=True)
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

    def completed(self, settings: Settings) -> "EvaluationOptions":
        """Replace every None by the checkpoint's own settings."""
        sampling = self.sampling or settings.sampling
        return replace(
            self,
            sampling=sampling,
            localization=self.localization or settings.localization,
            threshold=self.threshold or sampling.threshold or FALLBACK_THRESHOLD,
        )


def _require_names(option: str, names: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    if not isinstance(names, tuple) or not names or len(set(names)) < len(names):
        raise InputError(f"{option} is {names!r}; use a tuple of different names, at least one")
    for name in names:
        require_choice(option, name, allowed)
