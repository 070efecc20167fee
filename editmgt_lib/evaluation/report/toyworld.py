"""Results of an evaluation as plain data, JSON and a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...localization.maps import LocalizationOptions
from ...pages.markdown import markdown, number, percent
from ...sampling.options import SamplingOptions
from ...toyworld.success import Verdict
from ...toyworld.world import EditPair
from ..layers import LayerReport
from ..metrics import OUTSIDE_TOLERANCE, OutsideError, Overlap, mean
from ..options import LOCAL
from .toyworld_sweep import Sweep


@dataclass(frozen=True)
class Setting:
    """The options behind the figures, with defaults filled in."""

    samples: int
    seed: int
    resolution: int
    threshold: float
    sampling: SamplingOptions
    localization: LocalizationOptions
    tolerance: float = OUTSIDE_TOLERANCE


@dataclass(frozen=True)
class Outcome:
    """One edit: its verdict and its error outside the true mask."""

    verdict: Verdict
    outside: OutsideError

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        faults = [asdict(fault) for fault in self.verdict.faults]
        outside = self.outside._asdict()
        return {"success": self.verdict.succeeded, "faults": faults, "outside": outside}


@dataclass(frozen=True)
class PairResult:
    """One pair, edited without region-hold (`free`) and with it (`held`).

    held_share: fraction of tokens held at the last step. overlap: of the relevance map and the true
    mask, on the token grid.
    """

    category: str
    index: int
    instruction: str
    free: Outcome
    held: Outcome
    held_share: float
    overlap: Overlap

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {
            "category": self.category,
            "index": self.index,
            "instruction": self.instruction,
            "free": self.free.to_dict(),
            "held": self.held.to_dict(),
            "held_share": self.held_share,
            "localization": self.overlap._asdict(),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Row:
    """One pair for the contact sheet.

    source, result: float32 [H, W, 3]; relevance: [rows, cols]; held: bool [rows, cols], tokens
    whose relevance is below lambda. Result and verdict are those with region-hold, except for
    global edits, which hold nothing.
    """

    pair: EditPair
    source: np.ndarray
    relevance: np.ndarray
    held: np.ndarray
    result: np.ndarray
    verdict: Verdict

    def __repr__(self) -> str:
        return f"Row({self.pair.instruction!r}, {'ok' if self.verdict.succeeded else 'failed'})"


@dataclass(frozen=True)
class Summary:
    """Means over pairs, in 0..1; None if nothing was measured.

    success, outside, moved (fraction of outside pixels beyond the tolerance): without region-hold;
    held_success, held_outside, held_moved: with it. faults, held_faults: edits by kind of fault.
    """

    pairs: int
    success: float
    held_success: float
    outside: float | None
    held_outside: float | None
    moved: float | None
    held_moved: float | None
    held_share: float
    auc: float | None
    iou: float | None
    best_iou: float | None
    faults: dict[str, int]
    held_faults: dict[str, int]

    @property
    def times_less(self) -> float | None:
        """Factor by which region-hold lowers the outside error; None if one of them is zero."""
        return self.outside / self.held_outside if self.outside and self.held_outside else None


def summarize(results: Sequence[PairResult]) -> Summary:
    """Average over pairs."""
    return Summary(
        pairs=len(results),
        success=float(np.mean([r.free.verdict.succeeded for r in results])),
        held_success=float(np.mean([r.held.verdict.succeeded for r in results])),
        outside=mean([r.free.outside.mean for r in results]),
        held_outside=mean([r.held.outside.mean for r in results]),
        moved=mean([r.free.outside.share for r in results]),
        held_moved=mean([r.held.outside.share for r in results]),
        held_share=float(np.mean([r.held_share for r in results])),
        auc=mean([r.overlap.auc for r in results]),
        iou=mean([r.overlap.iou for r in results]),
        best_iou=mean([r.overlap.best_iou for r in results]),
        faults=_count_faults([r.free for r in results]),
        held_faults=_count_faults([r.held for r in results]),
    )


def _count_faults(outcomes: Sequence[Outcome]) -> dict[str, int]:
    kinds = Counter(kind for o in outcomes for kind in {f.kind for f in o.verdict.faults})
    return dict(sorted(kinds.items()))


@dataclass(frozen=True)
class Report:
    """All figures of one evaluation.

    rows: for the contact sheet. sweep, layers: None unless asked for. seconds: wall time of one
    edit without region-hold; comparisons ignore it.
    """

    setting: Setting
    results: tuple[PairResult, ...]
    rows: tuple[Row, ...] = field(default=(), compare=False, repr=False)
    sweep: Sweep | None = None
    layers: LayerReport | None = None
    seconds: float | None = field(default=None, compare=False)

    @property
    def categories(self) -> dict[str, Summary]:
        """Summaries by category, in the order of evaluation."""
        names = dict.fromkeys(result.category for result in self.results)
        return {name: summarize([r for r in self.results if r.category == name]) for name in names}

    @property
    def groups(self) -> dict[str, Summary]:
        """Summaries of "local" edits, "global" ones (background, style), and "all"."""
        local = [r for r in self.results if r.category in LOCAL]
        whole = [r for r in self.results if r.category not in LOCAL]
        groups = {"local": local, "global": whole, "all": list(self.results)}
        return {name: summarize(members) for name, members in groups.items() if members}

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain finite values for JSON, without pictures."""
        return {
            "setting": asdict(self.setting),
            "categories": {name: asdict(s) for name, s in self.categories.items()},
            "groups": {name: asdict(s) for name, s in self.groups.items()},
            "seconds_per_edit": self.seconds,
            "sweep": self.sweep.to_dict() if self.sweep else None,
            "layers": self.layers.to_dict() if self.layers else None,
            "pairs": [result.to_dict() for result in self.results],
        }

    def table(self) -> str:
        """Format all figures as markdown."""
        parts = [self._main_table(), self._fault_table()]
        parts += [part.table() for part in (self.sweep, self.layers) if part is not None]
        return "\n\n".join(parts)

    def _main_table(self) -> str:
        s = self.setting
        heading = (
            "edits", "pairs", "success", "held: success", "outside error", "held: outside error",
            "times less", "AUC", f"IoU at {s.threshold:g}", "best IoU",
        )  # fmt: skip
        lines = [
            (
                name, str(v.pairs), percent(v.success), percent(v.held_success),
                number(v.outside, 4), number(v.held_outside, 4), _factor(v),
                number(v.auc, 3), number(v.iou, 3), number(v.best_iou, 3),
            )
            for name, v in {**self.categories, **self.groups}.items()
        ]  # fmt: skip
        note = (
            f"{s.samples} held-out pairs per category, seed {s.seed}, {s.resolution} px, "
            f"{s.sampling.steps} steps, guidance {s.sampling.guidance:g}; held: region-hold at "
            f"lambda {s.threshold:g}, rule {s.sampling.hold_rule}."
        )
        if self.seconds is not None:
            note += f" One edit took {self.seconds:.2f} s."
        return f"{note}\n\n{markdown(heading, lines)}"

    def _fault_table(self) -> str:
        kinds = ("edited", "bystander", "invented", "ground")
        lines = [
            (name, *(f"{v.faults.get(k, 0)} / {v.held_faults.get(k, 0)}" for k in kinds))
            for name, v in self.categories.items()
        ]
        note = "Edits with a fault of each kind, without / with region-hold:"
        return f"{note}\n\n{markdown(('edits', *kinds), lines)}"


def _factor(summary: Summary) -> str:
    if summary.outside and summary.held_outside == 0:
        return "all"
    return number(summary.times_less, 1)
