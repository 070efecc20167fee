"""One run of the benchmark: open both sides, measure what was asked for, give one record."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import ceiling
from .cases import Case, random_inputs, write_checkpoint
from .clock import machine, set_precision
from .compare import compare, edit_rows, effects, memory_rows, option_rows, same_tokens, stage_rows
from .official import opened
from .ours import Ours
from .scaling import scaling
from .startup import startup

PARTS = ("stages", "edit", "memory", "tokens", "options", "scaling", "ceiling", "startup")


@dataclass(frozen=True)
class Plan:
    """What to measure and how long.

    precisions: names of `clock.DTYPES`. official: a checkout, or None. rounds: kept ones of each
    row. steps: of whole runs; None takes the case's.
    """

    device: str
    precisions: Sequence[str]
    parts: Sequence[str] = PARTS
    rounds: int = 3
    steps: int | None = None
    quick: bool = False
    official: Path | None = None
    official_python: str = ""

    def steps_for(self, case: Case) -> int:
        """Steps of whole runs: few where a step takes seconds."""
        if self.steps:
            return self.steps
        if self.quick:
            return 2
        return case.run_steps if self.device.startswith("cpu") else case.steps


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Measure; the result is what the JSON file holds."""
    cuda = not plan.device.startswith("cpu")
    result: dict[str, Any] = {
        "config": case.name,
        "machine": machine(plan.device),
        "quick": plan.quick,
        "lacks": lacking(plan, cuda),
        "precisions": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(case, folder)
        inputs = random_inputs(case)
        save_file(inputs, folder / "inputs.safetensors")
        if "startup" in plan.parts:
            dtype = set_precision(plan.precisions[0])
            result["startup"] = startup(folder, plan.device, dtype, plan.rounds)
        for precision in plan.precisions:
            ours = Ours(case, folder, inputs, plan.device, precision)
            result["precisions"][precision] = _in_one_precision(case, plan, folder, ours, precision)
            del ours
            if cuda:
                torch.cuda.empty_cache()
    return result


def _in_one_precision(
    case: Case, plan: Plan, folder: Path, ours: Ours, precision: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    steps = plan.steps_for(case)
    with ExitStack() as stack:
        sides: dict[str, Any] = {"ours": ours}
        if plan.official:
            sides["official"] = stack.enter_context(
                opened(case, folder, plan.official, plan.official_python, plan.device, precision,
                       ours.model.settings.negative)
            )  # fmt: skip
        rows = stage_rows(case) if "stages" in plan.parts else []
        rounds = plan.rounds
        found["rows"] = compare(rows, sides, rounds) if rows else []
        found["effects"] = effects(found["rows"])
        if "edit" in plan.parts:
            found["rows"] += compare(edit_rows(case, steps), sides, min(rounds, 2))
        if "memory" in plan.parts and ours.model.text_encoders is not None:
            found["memory"] = compare(memory_rows(steps), {"ours": ours}, 1)
        if "tokens" in plan.parts and plan.official:
            found["tokens"] = same_tokens(case, sides, steps)
    if "ceiling" in plan.parts:
        limits = ceiling.measure(plan.device, precision, plan.quick)
        size = set_precision(precision).itemsize
        rows = ceiling.achieved(case, found["rows"], limits, size)
        found["ceiling"] = {"limits": limits, "rows": rows}
    if "options" in plan.parts:
        rows = option_rows(steps, compiled=not plan.quick)
        found["options"] = compare(rows, {"ours": ours}, min(rounds, 2))
    if "scaling" in plan.parts:
        found["scaling"] = scaling(case, ours, rounds, plan.quick)
    return found


def lacking(plan: Plan, cuda: bool) -> list[str]:
    """What the tables of this run will not say, and why."""
    lacks = []
    if not cuda:
        lacks.append("bfloat16, float16 and TF32 rows and GPU memory: there is no CUDA device")
    if plan.official is None:
        lacks.append("the official side and equal tokens: no checkout was given (--official)")
    for part in PARTS:
        if part not in plan.parts:
            lacks.append(f"{part}: left out (--parts)")
    if plan.quick:
        lacks.append("steady figures: --quick takes one round and the shortest runs")
    return lacks
