"""Judging by a vision-language model behind an OpenAI-compatible server; door to the room.

options -> prompts -> protocols (questions) -> asking (known answers, re-ask) -> `endpoints`
(network) -> parsing -> protocols (values) -> running (files)
"""

from .calibration import Calibration, calibrate, read_published
from .options import JudgeOptions
from .protocols import scale
from .repeats import Repeats, between_runs
from .running import Outcome, check_judge, judge_run

__all__ = [
    "Calibration", "JudgeOptions", "Outcome", "Repeats", "between_runs", "calibrate",
    "check_judge", "judge_run", "read_published", "scale",
]  # fmt: skip
