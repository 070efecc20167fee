"""What the studies on ToyWorld share: their command line, and the edits they look at."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from editmgt_lib.evaluation.batches import PairBatch, pair_batches
from editmgt_lib.evaluation.options import EvaluationOptions
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.toyworld.world import CATEGORIES


def options(name: str, about: str | None, samples: int, seed: int) -> argparse.Namespace:
    """The command line, with the defaults given; sets the number of threads."""
    p = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    p.add_argument("--samples", type=int, default=samples, help="edits per category")
    p.add_argument("--seed", type=int, default=seed)
    p.add_argument("--threads", type=int)
    p.add_argument("--json", type=Path)
    given = p.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def edits(model: EditMGT, samples: int, seed: int) -> list[PairBatch]:
    """Held-out edits one by one, encoded: `samples` of each category."""
    chosen = EvaluationOptions(samples=samples, seed=seed, batch=1)
    return list(pair_batches(model, chosen, CATEGORIES, samples))


def write(path: Path | None, found: Any) -> None:
    """As JSON, where a file was asked for."""
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
