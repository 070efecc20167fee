"""Measure a checkpoint on ToyWorld, in figures and pictures."""

from .curve import draw_curve
from .layers import LayerReport, localization_by_layer
from .options import EvaluationOptions
from .report.toyworld import Report
from .report.toyworld_sweep import Sweep
from .sheet import contact_sheet, save_picture
from .toyworld import evaluate

__all__ = [
    "EvaluationOptions", "LayerReport", "Report", "Sweep", "contact_sheet", "draw_curve",
    "evaluate", "localization_by_layer", "save_picture",
]  # fmt: skip
