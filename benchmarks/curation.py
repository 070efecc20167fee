"""`python -m benchmarks.curation`: rows per second of curation's stages, by both executors.

Also how the cost of a row grows with the number of rows, and what two million pairs would take.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.backends import read_backends
from editmgt_lib.curation.edits import EditStage
from editmgt_lib.curation.engine import EngineOptions
from editmgt_lib.curation.given import GivenInstructions
from editmgt_lib.curation.images import ImageStage
from editmgt_lib.curation.rows import Found, Row, Stage, Stored
from editmgt_lib.curation.run import run_stage
from editmgt_lib.curation.sources import SourceConfig
from editmgt_lib.curation.store import claim
from editmgt_lib.curation.verdicts import DuplicateOptions, decide_all
from editmgt_lib.pages.markdown import markdown

from . import records
from .clock import machine

TEXT = "make it red"
ENGINES = {
    "in-process, 1": EngineOptions(workers=1),
    "in-process, 2": EngineOptions(workers=2),
    "Ray, 1": EngineOptions(executor="ray", workers=1),
    "Ray, 2": EngineOptions(executor="ray", workers=2),
}
PAIRS = 2_000_000
CARDS = (8, 64, 512)
REPORTED = {
    "EditMGT": (2.0, "1024 px, its paper, card and steps not named"),
    "FLUX.1 Kontext dev": (14.0, "1024 px, card not named"),
    "Step1X-Edit v1.0": (22.0, "1024 px, H800, its README"),
}
"""Seconds of an edit that others state."""
REPORTED_ROW = 4.6e12 / 2_286_540  # bytes of a row of CrispEdit-2M, as published


@dataclass(frozen=True)
class Headers:
    """What a stage costs that reads a picture's header alone."""

    name = "scores"
    settings: Mapping[str, Any] = None  # type: ignore[assignment]
    batch = 1
    missing = ()

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        assert isinstance(row.picture, Stored)
        with Image.open(row.picture.path) as picture:
            width, height = picture.size
        return Found({"width": width, "height": height, "short_side": min(width, height)})


def draw_pictures(folder: Path, count: int, side: int) -> None:
    """Smooth pictures with some noise, as JPEG files."""
    folder.mkdir()
    y, x = np.mgrid[:side, :side] / side
    for number in range(count):
        rng = np.random.default_rng(number)
        a, b, c = rng.uniform(2, 20, 3)
        waves = np.stack([np.sin(a * x + b * y), np.cos(b * x), np.sin(c * y * x)], axis=-1)
        noisy = 127 + 90 * waves + rng.normal(0, 8, waves.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")


def listed(folder: Path, pictures: Path, rows: int, stages: Sequence[str]) -> Curation:
    """A curation of so many rows, which share a few pictures."""
    names = sorted(path.name for path in pictures.iterdir())
    path = pictures.with_name(f"{folder.name}.csv")
    lines = (f"{pictures.name}/{names[k % len(names)]},{k}\n" for k in range(rows))
    path.write_text("image,id\n" + "".join(lines), encoding="utf-8")
    made = Curation(folder, {"s": SourceConfig("s", str(path))}, tuple(stages))
    claim(folder)
    return made


def decided(made: Curation) -> Curation:
    decide_all(made, [], DuplicateOptions(distance=-1))
    return made


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stage_row(
    name: str, stage: Stage, rows: int, pictures: Path, engines: Mapping[str, EngineOptions]
) -> dict[str, Any]:
    """Rows per second of one stage by each executor, start included, and bytes of a row."""
    result: dict[str, Any] = {"stage": name, "rows": rows, "rates": {}}
    before = [GivenInstructions(TEXT)] if stage.name == "edits" else []
    for label, engine in engines.items():
        with tempfile.TemporaryDirectory(dir=pictures.parent) as parent:
            names = [one.name for one in (*before, stage)]
            made = listed(Path(parent) / "out", pictures, rows, names)
            made.list_new(max(8, rows // 4))
            decided(made)
            for one in before:
                run_stage(made, one, [], EngineOptions(workers=1), lambda _: None)
                decided(made)
            seconds = timed(lambda: run_stage(made, stage, [], engine, lambda _: None))  # noqa: B023
            result["rates"][label] = rows / seconds
            result["bytes"] = sum(p.stat().st_size for p in (made.folder / stage.name).iterdir())
            result["bytes"] /= rows
    return result


def growth_row(rows: int, pictures: Path) -> dict[str, Any]:
    """Microseconds a row of what needs no pixels."""
    with tempfile.TemporaryDirectory(dir=pictures.parent) as parent:
        made = listed(Path(parent) / "out", pictures, rows, ["scores"])
        work = {
            "list": lambda: made.list_new(256),
            "decide": lambda: decided(made),
            "headers": lambda: run_stage(made, Headers({}), [], EngineOptions(workers=1), _nothing),
            "list again": lambda: made.list_new(256),
            "decide again": lambda: decided(made),
            "resume": lambda: run_stage(made, Headers({}), [], EngineOptions(workers=1), _nothing),
        }
        each = {name: 1e6 * timed(one) / rows for name, one in work.items()}
    return {"rows": rows, "microseconds": each}


def _nothing(_: Any) -> None:
    pass


def measure(given: argparse.Namespace) -> dict[str, Any]:
    engines = {k: v for k, v in ENGINES.items() if v.executor == "local" or not given.without_ray}
    config = {"editors": {"toy": {"kind": "editmgt", "device": "cpu"}}}
    edits = EditStage(read_backends(config).editors, {})
    about = machine("cpu")
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large", Path(name) / "small"
        draw_pictures(large, 16, given.side)
        draw_pictures(small, 16, 64)
        work = [
            (f"images, {given.side} px", ImageStage(), given.rows, large),
            ("headers", Headers({}), given.rows, large),
            ("edits by the toy model, 64 px", edits, given.edits, small),
        ]
        stages = [stage_row(*one, engines) for one in work]
        growth = [growth_row(int(rows), small) for rows in given.growth]
    return {
        "config": "curation", "machine": about,
        "curation": {"stages": stages, "growth": growth},
    }  # fmt: skip


def tables(result: dict[str, Any]) -> list[str]:
    """Measured, then reckoned."""
    stages, growth = result["curation"]["stages"], result["curation"]["growth"]
    labels = list(stages[0]["rates"])
    rates = [
        [s["stage"], str(s["rows"]), *(f"{s['rates'][k]:.3g}" for k in labels), f"{s['bytes']:.0f}"]
        for s in stages
    ]
    steps = list(growth[0]["microseconds"])
    costs = [[f"{g['rows']:,}", *(f"{g['microseconds'][k]:.0f}" for k in steps)] for g in growth]
    return [
        "Rows per second, workers behind the executor's name, start of workers included:",
        markdown(["stage", "rows", *labels, "bytes a row"], rates),
        "Microseconds a row, one thread, pictures' headers only:",
        markdown(["rows", *steps], costs),
        f"For {PAIRS:,} pairs. Arithmetic on times that others report, one edit for each pair, "
        "every card always busy:",
        markdown(["editor", "s an edit", "as reported", "GPU hours",
                  *(f"days on {n}" for n in CARDS)], reckoned()),
        "Arithmetic on what was measured above, and on CrispEdit-2M's published size:",
        markdown([f"{PAIRS:,} rows", "is"], storage(stages)),
    ]  # fmt: skip


def reckoned() -> list[list[str]]:
    lines = []
    for name, (seconds, where) in REPORTED.items():
        hours = PAIRS * seconds / 3600
        days = [f"{hours / 24 / cards:.1f}" for cards in CARDS]
        lines.append([name, f"{seconds:g}", where, f"{hours:,.0f}", *days])
    return lines


def storage(stages: Sequence[dict[str, Any]]) -> list[list[str]]:
    images = stages[0]
    rate = images["rates"]["in-process, 1"]
    return [
        [f"{images['stage']}, one core", f"{PAIRS / rate / 3600:,.0f} hours"],
        [f"{images['stage']}, written", f"{PAIRS * images['bytes'] / 1e9:.1f} GB"],
        ["pairs as published by CrispEdit-2M", f"{PAIRS * REPORTED_ROW / 1e12:.1f} TB"],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.curation", description=__doc__)
    p.add_argument("--rows", type=int, default=400, help="of stages on pictures")
    p.add_argument("--edits", type=int, default=32)
    p.add_argument("--side", type=int, default=1024, help="of the pictures, in pixels")
    p.add_argument("--growth", type=float, nargs="+", default=[1e3, 1e4, 1e5], metavar="ROWS")
    p.add_argument("--without-ray", action="store_true")
    p.add_argument("--json", type=Path)
    given = p.parse_args(arguments)
    torch.set_num_threads(1)
    result = measure(given)
    if given.json:
        records.write(given.json, result)
    from .table import render

    print(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
