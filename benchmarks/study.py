"""`python -m benchmarks.study`: what each approximation and number format saves, and costs.

The same held-out ToyWorld edits, from the same random numbers, exactly and under each option: time
as a ratio of interleaved runs, success, error outside the true mask, and the fraction of tokens
equal to those of the exact run.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import editmgt_lib
from editmgt_lib.evaluation.batches import PairBatch, pair_batches, seeded
from editmgt_lib.evaluation.metrics import mean, outside_error
from editmgt_lib.evaluation.options import EvaluationOptions
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling.options import FAST, SamplingOptions
from editmgt_lib.toyworld.success import judge
from editmgt_lib.toyworld.world import CATEGORIES

from . import records
from .clock import machine
from .table import render


@dataclass(frozen=True)
class Variant:
    """Options, number format, whether only the true mask may change, and what it is compared to."""

    options: SamplingOptions
    number_format: str = "float32"
    inside: bool = False
    base: str = "exact"


def variants(own: SamplingOptions) -> dict[str, Variant]:
    """All variants, each after its base."""
    guided, known = replace(own, guidance=2.0), replace(own, reuse="known")
    formats = {name: Variant(own, name) for name in ("bfloat16", "float16", "float8 storage")}
    fewer = {f"{n} steps": Variant(replace(own, steps=n)) for n in (own.steps // 2, own.steps // 4)}
    half = replace(guided, guidance_interval=(0.0, 0.5))
    never = replace(known, refresh=1000)
    return {
        "exact": Variant(own),
        **formats,
        **fewer,
        "guidance 2": Variant(guided),
        "guidance 2, first half": Variant(half, base="guidance 2"),
        "guidance 2, fast": Variant(replace(guided, **FAST), base="guidance 2"),
        "reuse reference": Variant(replace(own, reuse="reference")),
        "reuse known": Variant(known),
        "reuse known, no refresh": Variant(never),
        "inside a mask": Variant(own, inside=True),
        "inside a mask, reuse known": Variant(known, inside=True, base="inside a mask"),
        "inside a mask, no refresh": Variant(never, inside=True, base="inside a mask"),
    }


def load_formats() -> dict[str, EditMGT]:
    """The shipped checkpoint in each number format.

    In "float8 storage" the blocks' matrices are rounded to 8 bits and computed with in float32: the
    row says what float8 costs, not how fast it is.
    """
    kinds = {name: name for name in ("float32", "bfloat16", "float16")}
    kinds["float8 storage"] = "float32"
    models = {n: editmgt_lib.load("toyworld", device="cpu", dtype=d) for n, d in kinds.items()}
    for block in models["float8 storage"].transformer.blocks:
        for layer in block.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(layer.weight.to(torch.float8_e4m3fn))
    return models


def measure(
    models: dict[str, EditMGT], runs: dict[str, Variant], batches: Iterable[PairBatch], seed: int
) -> list[dict[str, Any]]:
    """Return one row per variant."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for batch in batches:
        ids: dict[str, Tensor] = {}
        for name, variant in runs.items():
            ids[name], seconds = _sample(models[variant.number_format], batch, variant, seed)
            scores = _score(models["float32"], batch, ids[name], ids[variant.base])
            samples[name].append({"seconds": seconds, **scores})
    return [_row(name, samples[name], samples[runs[name].base]) for name in runs]


def _sample(model: EditMGT, batch: PairBatch, variant: Variant, seed: int) -> tuple[Tensor, float]:
    options = seeded(variant.options, batch, seed)
    region = torch.from_numpy(batch.changed).float() if variant.inside else None
    start = process_time()  # of all threads, so that other work on the machine hardly counts
    tokens, _ = model.sample(batch.tokens, batch.instruction, options, region=region)
    return tokens.ids, process_time() - start


def _score(model: EditMGT, batch: PairBatch, ids: Tensor, base: Tensor) -> dict[str, Any]:
    picture = model.decode(batch.tokens.with_ids(ids)).image[0].numpy()
    return {
        "success": judge(picture, batch.pairs[0]).succeeded,
        "outside error": outside_error(picture, batch.sources[0], batch.changed[0]).mean,
        "same tokens": (ids == base).float().mean().item(),
    }


def _row(name: str, samples: Sequence[dict], base: Sequence[dict]) -> dict[str, Any]:
    ratios = [b["seconds"] / s["seconds"] for b, s in zip(base, samples, strict=True)]
    means = {k: mean([s[k] for s in samples]) for k in samples[0] if k != "seconds"}
    return {"option": name, "speed-up": statistics.median(ratios), **means}


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    p.add_argument("--samples", type=int, default=6, help="edits per category")
    p.add_argument("--seed", type=int, default=2)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path)
    given = p.parse_args()
    torch.set_num_threads(given.threads)
    about, models = machine("cpu"), load_formats()
    exact = models["float32"]
    chosen = EvaluationOptions(samples=given.samples, seed=given.seed, batch=1)
    batches = list(pair_batches(exact, chosen, CATEGORIES, given.samples))
    runs = variants(exact.settings.sampling)
    rows = measure(models, runs, tqdm(batches, disable=None), given.seed)
    config = f"study of {len(batches)} held-out ToyWorld edits"
    result = {"config": config, "machine": about, "options": rows}
    if given.json:
        records.write(given.json, result)
    print(render(result))


if __name__ == "__main__":
    main()
