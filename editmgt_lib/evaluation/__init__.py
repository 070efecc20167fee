"""Measure a checkpoint on ToyWorld, in figures and pictures."""

from .curve import draw_curve
from .layers import LayerReport, localization_by_layer
from .options import EvaluationOptions
from .report import Report
from .runner import evaluate
from .sheet import contact_sheet, save_picture
from .success import Fault, Verdict, judge
from .sweep import Sweep, sweep_threshold

__all__ = [
    "EvaluationOptions", "Fault", "LayerReport", "Report", "Sweep", "Verdict",
    "contact_sheet", "draw_curve", "evaluate", "judge", "localization_by_layer", "save_picture",
    "sweep_threshold",
]  # fmt: skip
