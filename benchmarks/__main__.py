"""`python -m benchmarks`: our side beside the official code, and beside the machine's ceilings."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import ceiling, records
from .cases import CASES, Case, random_inputs, write_checkpoint
from .clock import DTYPES, machine, set_precision
from .compare import compare, offload_rows, option_rows, run_rows, same_tokens, stage_rows
from .official import opened
from .ours import Ours
from .table import render

PARTS = ("stages", "runs", "tokens", "options", "offload", "ceiling")
WITHOUT_GPU = """The published size (1.009 B parameters at 1024 x 1024) is measured on a GPU: one
edit of 36 steps needs 250 TFLOP, most of an hour on two CPU cores. There is no CUDA device here.
--force measures on the CPU all the same; --config mid is the CPU's size."""


@dataclass(frozen=True)
class Plan:
    """What to measure and how long.

    precisions: names of `clock.DTYPES`. rounds: of the stages; whole runs take one.
    steps: of whole runs; None takes the case's. official: a checkout, or None.
    """

    device: str
    precisions: Sequence[str]
    parts: Sequence[str] = PARTS
    rounds: int = 3
    steps: int | None = None
    quick: bool = False
    official: Path | None = None
    official_python: str = ""

    @property
    def on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    def steps_for(self, case: Case) -> int:
        """Steps of whole runs: few where a step takes seconds."""
        return self.steps or (2 if self.quick else case.cpu_steps if self.on_cpu else case.steps)


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Measure; the result is what the JSON file holds."""
    result: dict[str, Any] = {
        "config": case.name,
        "machine": machine(plan.device),
        "lacks": lacking(plan),
        "precisions": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder, inputs = Path(name), random_inputs(case)
        write_checkpoint(case, folder)
        save_file(inputs, folder / "inputs.safetensors")
        for precision in plan.precisions:
            ours = Ours(case, folder, inputs, plan.device, precision)
            result["precisions"][precision] = _in_one_precision(case, plan, folder, ours, precision)
            del ours
            if not plan.on_cpu:
                torch.cuda.empty_cache()
    return result


def _in_one_precision(
    case: Case, plan: Plan, folder: Path, ours: Ours, precision: str
) -> dict[str, Any]:
    steps, alone = plan.steps_for(case), {"ours": ours}
    measured: dict[str, Any] = {"rows": []}
    with ExitStack() as stack:
        sides: dict[str, Any] = dict(alone)
        if plan.official:
            sides["official"] = stack.enter_context(
                opened(case, folder, plan.official, plan.official_python, plan.device, precision,
                       ours.model.settings.negative)
            )  # fmt: skip
        if "stages" in plan.parts:
            measured["rows"] += compare(stage_rows(case), sides, plan.rounds)
        if "runs" in plan.parts:
            measured["rows"] += compare(run_rows(case, steps), sides, 1, warm_up=False)
        if "tokens" in plan.parts and plan.official:
            measured["tokens"] = same_tokens(case, sides, steps)
    if "ceiling" in plan.parts:
        limits = ceiling.measure(plan.device, precision, plan.quick)
        size = set_precision(precision).itemsize
        reached = ceiling.achieved(case, measured["rows"], limits, size)
        measured["ceiling"] = {"limits": limits, "rows": reached}
    if "options" in plan.parts:
        measured["options"] = compare(option_rows(steps, not plan.quick), alone, 1)
    if "offload" in plan.parts and ours.model.text_encoders is not None:
        measured["offload"] = compare(offload_rows(steps), alone, 1)
    return measured


def lacking(plan: Plan) -> list[str]:
    """What the tables of this run do not say, and why."""
    lacks = []
    if plan.on_cpu:
        lacks.append("bfloat16, float16 and TF32 rows and GPU memory: there is no CUDA device")
    if plan.official is None:
        lacks.append("the official side and equal tokens: no checkout was given (--official)")
    lacks += [f"{part}: left out (--parts)" for part in PARTS if part not in plan.parts]
    if plan.quick:
        lacks.append("steady figures: --quick takes one round and the shortest runs")
    return lacks


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("--config", choices=CASES, default="toyworld")
    p.add_argument("--quick", action="store_true", help="one round, shortest runs")
    p.add_argument("--official", type=Path, help="checkout of the official code to run beside ours")
    p.add_argument("--official-python", default=sys.executable,
                   help="interpreter that has what the official code needs")  # fmt: skip
    p.add_argument("--json", type=Path, help="write the result to this file")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    kinds = ", ".join(DTYPES)
    p.add_argument("--dtype", default="auto", help=f"comma list of {kinds}; auto: all on CUDA")
    p.add_argument("--threads", type=int, help="CPU threads of both sides")
    p.add_argument("--rounds", type=int, help="measured rounds of the stages, 3 unless --quick")
    p.add_argument("--steps", type=int, help="steps of whole runs")
    p.add_argument("--parts", default=",".join(PARTS), help=f"comma list of {', '.join(PARTS)}")
    p.add_argument("--force", action="store_true", help="the published size on a CPU")
    return p


def plan_of(given: argparse.Namespace) -> Plan:
    """Decide what is `auto`."""
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    every = list(DTYPES) if device.startswith("cuda") else ["float32"]
    return Plan(
        device=device,
        precisions=every if given.dtype == "auto" else _listed(given.dtype, DTYPES),
        parts=_listed(given.parts, PARTS),
        rounds=given.rounds or (1 if given.quick else 3),
        steps=given.steps,
        quick=given.quick,
        official=given.official and given.official.resolve(),
        official_python=given.official_python,
    )


def _listed(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if wrong := [name for name in names if name not in known]:
        raise SystemExit(f"{', '.join(wrong)}: use {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    plan = plan_of(given)
    if given.config == "published" and plan.on_cpu and not given.force:
        print(WITHOUT_GPU)
        return 0
    result = run(CASES[given.config](), plan)
    if given.json:
        records.write(given.json, result)
    print(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
