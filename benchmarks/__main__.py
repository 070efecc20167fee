"""`python -m benchmarks`: measure, print tables, write JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import CASES
from .clock import DTYPES
from .run import PARTS, Plan, run
from .table import render

WITHOUT_GPU = """The published size (1.009 B parameters at 1024 x 1024) is measured on a GPU:
one edit of 36 steps needs 250 TFLOP, most of an hour on two CPU cores, and what is asked of it is
asked of CUDA (bf16, fp16, fp32 with and without TF32). There is no CUDA device here. On one:

    python -m benchmarks --config published --official PATH --json published.json

--force measures on the CPU all the same; --config mid is the CPU's size."""


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
    p.add_argument("--rounds", type=int, help="measured rounds, 3 unless --quick")
    p.add_argument("--steps", type=int, help="steps of whole runs")
    p.add_argument("--parts", default=",".join(PARTS), help=f"comma list of {', '.join(PARTS)}")
    p.add_argument("--force", action="store_true", help="the published size on a CPU")
    return p


def plan_of(given: argparse.Namespace) -> Plan:
    """Options with `auto` decided."""
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
    if given.config == "published" and not plan.device.startswith("cuda") and not given.force:
        print(WITHOUT_GPU)
        return 0
    result = run(CASES[given.config](), plan)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
