"""`python -m benchmarks.approximations`: what each approximating option saves, and what it costs.

The same held-out ToyWorld edits, from the same random numbers, exactly and under each option:
time as a ratio of interleaved runs, success under the strict criterion, error outside the true
mask, and the share of tokens that are those of the exact run.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import process_time

import torch
from tqdm import tqdm

import editmgt_lib
from editmgt_lib.evaluation.batches import PairBatch, seeded
from editmgt_lib.evaluation.metrics import outside_error
from editmgt_lib.evaluation.success import judge
from editmgt_lib.evaluation.tables import markdown
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling.options import FAST, SamplingOptions

from . import held_out


@dataclass(frozen=True)
class Variant:
    """Options, number format, whether only the true mask may change, and what it is compared to."""

    options: SamplingOptions
    format: str = "float32"
    inside: bool = False
    base: str = "exact"


def variants(own: SamplingOptions) -> dict[str, Variant]:
    """Every variant comes after its base."""
    guided, steps = replace(own, guidance=2.0), own.steps
    found = {
        "exact": Variant(own),
        "bfloat16": Variant(own, "bfloat16"),
        "float8 storage": Variant(own, "float8 storage"),
        f"{steps // 2} steps": Variant(replace(own, steps=steps // 2)),
        f"{steps // 4} steps": Variant(replace(own, steps=steps // 4)),
        f"{steps // 4} steps, linear": Variant(replace(own, steps=steps // 4, schedule="linear")),
        "guidance 2": Variant(guided),
        "guidance 2, first half": Variant(
            replace(guided, guidance_interval=(0.0, 0.5)), base="guidance 2"
        ),
        "guidance 2, fast": Variant(replace(guided, **FAST), base="guidance 2"),
        "inside a mask": Variant(own, inside=True),
    }
    for what, reuse in (("reference kept", "reference"), ("known tokens kept too", "known")):
        for often, refresh in ((f"refresh {steps // 4}", steps // 4), ("no refresh", 1000)):
            options = replace(own, reuse=reuse, refresh=refresh)
            found[f"{what}, {often}"] = Variant(options)
            found[f"inside a mask, {what}, {often}"] = Variant(
                options, inside=True, base="inside a mask"
            )
    return found


def formats() -> dict[str, EditMGT]:
    """The shipped checkpoint in float32, in bfloat16, and with the blocks' matrices in float8.

    Those are stored in 8 bits and computed with in float32; here only their values are rounded, so
    the row says what float8 costs and nothing of its speed.
    """
    kinds = {"float32": "float32", "bfloat16": "bfloat16", "float8 storage": "float32"}
    models = {n: editmgt_lib.load("toyworld", device="cpu", dtype=d) for n, d in kinds.items()}
    for block in models["float8 storage"].transformer.blocks:
        for layer in block.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(layer.weight.to(torch.float8_e4m3fn))
    return models


def measure(models: dict[str, EditMGT], samples: int, seed: int) -> list[dict]:
    """One row per variant."""
    exact = models["float32"]
    runs = variants(exact.settings.sampling)
    rows = {name: {"times": [], "hits": [], "outside": [], "same": []} for name in runs}
    for batch in tqdm(held_out.edits(exact, samples, seed), disable=None):
        ids = {}
        for name, variant in runs.items():
            ids[name], seconds = _sampled(models[variant.format], batch, variant, seed)
            _note(rows[name], exact, batch, ids[name], ids[variant.base], seconds)
    return [_row(name, row, rows[runs[name].base]["times"]) for name, row in rows.items()]


def _sampled(
    model: EditMGT, batch: PairBatch, variant: Variant, seed: int
) -> tuple[torch.Tensor, float]:
    options = seeded(variant.options, batch, seed)
    region = torch.from_numpy(batch.changed).float() if variant.inside else None
    began = process_time()  # one thread or several: what was computed, whatever else runs
    tokens, _ = model.sample(batch.tokens, batch.instruction, options, region=region)
    return tokens.ids, process_time() - began


def _note(
    row: dict,
    model: EditMGT,
    batch: PairBatch,
    ids: torch.Tensor,
    reference: torch.Tensor,
    seconds: float,
) -> None:
    picture = model.decode(batch.tokens.with_ids(ids)).image[0].numpy()
    outside = outside_error(picture, batch.sources[0], batch.changed[0]).mean
    row["times"].append(seconds)
    row["hits"].append(judge(picture, batch.pairs[0]).succeeded)
    row["outside"] += [] if outside is None else [outside]
    row["same"].append((ids == reference).float().mean().item())


def _row(name: str, row: dict, exact: Sequence[float]) -> dict:
    ratios = [a / b for a, b in zip(exact, row["times"], strict=True)]
    return {
        "option": name,
        "edits": len(ratios),
        "speed-up": statistics.median(ratios),
        "success": statistics.fmean(row["hits"]),
        "outside error": statistics.fmean(row["outside"]),
        "same tokens": statistics.fmean(row["same"]),
    }


def table(rows: Sequence[dict]) -> str:
    """Markdown."""
    lines = [
        (
            r["option"], f"{r['speed-up']:.2f}", f"{r['success']:.1%}",
            f"{r['outside error']:.4f}", f"{r['same tokens']:.2%}",
        )
        for r in rows
    ]  # fmt: skip
    return markdown(("option", "speed-up", "success", "outside error", "same tokens"), lines)


def main() -> None:
    """Read the command line, measure, print, write."""
    given = held_out.options("approximations", __doc__, samples=10, seed=0)
    rows = measure(formats(), given.samples, given.seed)
    print(table(rows))
    held_out.write(given.json, rows)


if __name__ == "__main__":
    main()
