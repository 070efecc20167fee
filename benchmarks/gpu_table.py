"""Markdown from the rows of a GPU run: `python -m benchmarks.gpu_table rows.jsonl`.

First what was aimed at, with what was measured or "not measured"; then every row.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from editmgt_lib.pages.markdown import markdown, percent

from .clock import duration
from .records import read_lines

Row = dict[str, Any]
NOTHING = "not measured"
MAIN = "bfloat16"


class Found:
    """The rows of a run, by what they measure."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = [row for row in rows if "name" in row]

    def named(self, start: str, **same: Any) -> list[Row]:
        """Rows whose name starts so and whose fields are so."""
        return [
            row for row in self.rows
            if row["name"].startswith(start) and all(row.get(k) == v for k, v in same.items())
        ]  # fmt: skip

    def first(self, start: str, side: str = "ours", **same: Any) -> Row | None:
        """The first of `named` that was timed."""
        return next((r for r in self.named(start, **same) if "median" in r.get(side, {})), None)

    def seconds(self, start: str, side: str = "ours", **same: Any) -> float | None:
        row = self.first(start, side, **same)
        return row and row[side]["median"]

    def best_edit(self) -> Row | None:
        """The fastest of our whole edits without localization."""
        edits = [
            row for row in self.named("whole edit", precision=MAIN)
            if "median" in row.get("ours", {}) and "layers" not in row["asked"]
        ]  # fmt: skip
        return min(edits, key=lambda row: row["ours"]["median"], default=None)

    def share(self, batch: int) -> float | None:
        """The best share of the matrix ceiling that a sampling run reached."""
        runs = [
            row["reached"]["ours"] for row in self.named("sampling", precision=MAIN)
            if row["asked"].get("batch", 1) == batch and "ours" in row.get("reached", {})
        ]  # fmt: skip
        return max(runs, default=None)


def targets(rows: Iterable[Row]) -> str:
    """What was aimed at beside what was measured."""
    f = Found(rows)
    lines = [
        ("edit of 36 steps, 1024 x 1024, strength 1.1", "0.7 s", _edit(f)),
        ("official edit as it comes (float32, captured) / ours", "15", _ratio(f, "as it comes")),
        ("official edit in bfloat16 without capture / ours", "2.5", _ratio(f, "without capture")),
        ("share of the bfloat16 matrix ceiling, batch 1", "45 %", _percent(f.share(1))),
        ("share of the bfloat16 matrix ceiling, batch 8", "60 %", _percent(f.share(8))),
        ("localization on, more time", "2 %", _localization(f)),
        ("peak memory, offload stages", "6 GB", _peak(f.first("offload stages"))),
        ("peak memory, offload layers", "4 GB", _peak(f.first("offload layers"))),
        ("a tenth of the picture, with reuse: times as fast", "", _tenth(f)),
        ("training step, batch 8 with reference", "", _training(f)),
        ("attention of one block, xformers", "it runs", _kernel(f, "xformers")),
        ("8-bit storage", "it runs", _eight_bits(f)),
        ("GPU tests", "all pass", _tests(f)),
        ("ComfyUI, one workflow, normal and --lowvram", "", NOTHING),
    ]
    return markdown(["published size, bfloat16, random weights", "target", "measured"], lines)


def _edit(f: Found) -> str:
    row = f.best_edit()
    return f"{duration(row['ours'])} ({row['name']})" if row else NOTHING


def _ratio(f: Found, which: str) -> str:
    ours, theirs = f.best_edit(), f.seconds(f"whole edit, official {which}", "official")
    return f"{theirs / ours['ours']['median']:.1f}" if ours and theirs else NOTHING


def _percent(share: float | None) -> str:
    return percent(share) if share is not None else NOTHING


def _localization(f: Found) -> str:
    edits = [r for r in f.named("whole edit", part="edits") if "median" in r.get("ours", {})]
    by_held = {"threshold" in row["asked"]: row["ours"]["median"] for row in edits}
    return percent(by_held[True] / by_held[False] - 1) if len(by_held) == 2 else NOTHING


def _peak(row: Row | None) -> str:
    if row is None or "peak_mib" not in row["ours"]:
        return NOTHING
    return f"{row['ours']['peak_mib'] * 2**20 / 1e9:.2f} GB in {duration(row['ours'])}"


def _tenth(f: Found) -> str:
    exact, tenth = (f.seconds(name, part="options") for name in ("exact", "a tenth, reuse known"))
    return f"{exact / tenth:.1f}" if exact and tenth else NOTHING


def _training(f: Found) -> str:
    row = f.first("training step")
    if row is None:
        return NOTHING
    rate = row["asked"]["batch"] / row["ours"]["median"]
    share = _percent(row.get("reached", {}).get("ours"))
    return f"{rate:.1f} samples/s, {share} of the ceiling, {_peak(row)}"


def _kernel(f: Found, name: str) -> str:
    row = next((r for r in f.rows if r.get("kernel") == name and "seconds" in r), None)
    return f"{1e6 * row['seconds']:.0f} us, error {row.get('error', 0):.1e}" if row else NOTHING


def _eight_bits(f: Found) -> str:
    row = next(iter(f.named("8-bit storage")), None)
    if row is None or "seconds" not in row:
        return NOTHING
    return (
        f"{row['mib']:.0f} of {row['wide_mib']:.0f} MiB, {row['equal']} of {row['tokens']} tokens "
        f"the same, widened in {1000 * row['seconds']:.3g} ms"
    )


def _tests(f: Found) -> str:
    row = next(iter(f.named("GPU tests")), None)
    return ", ".join(f"{n} {k}" for k, n in row["counts"].items()) if row else NOTHING


def kernels(rows: Iterable[Row]) -> str:
    """Attention of one block in every way."""
    lines = []
    for row in rows:
        if "kernel" not in row or "batch" not in row:
            continue
        taken = (
            f"{1e6 * row['seconds']:.0f} us" if "seconds" in row else row.get("missing", "")[:70]
        )
        error = f"{row['error']:.1e}" if "error" in row else ""
        share = percent(row["reaches"]) if "reaches" in row else ""
        lines.append([row["name"].removeprefix("attention "), taken, share, error])
    return markdown(["attention of one block", "takes", "reaches", "error"], lines)


def everything(rows: Iterable[Row]) -> str:
    """All rows that were timed, or the reason why they were not."""
    lines = []
    for row in rows:
        side = row.get("ours") or row.get("official") or row
        if "kernel" in row and "batch" in row or not {"median", "missing", "equal"} & set(side):
            continue
        equal = f"{row['equal']} of {row['tokens']} equal" if "equal" in row else ""
        taken = duration(side) if equal == "" else equal
        peak = f"{side['peak_mib']:.0f}" if "peak_mib" in side else ""
        reached = row.get("reached", {})
        share = [percent(reached[s]) for s in ("ours", "official") if s in reached]
        lines.append([row["part"], row["name"], row.get("precision", ""), taken, peak,
                      "".join(share)])  # fmt: skip
    return markdown(["part", "row", "precision", "takes", "peak MiB", "reaches"], lines)


def page(rows: list[Row]) -> str:
    """All tables of a run."""
    about = next((row for row in rows if row.get("name") == "environment"), None)
    card = f"{about['device']}, torch {about['torch']}" if about else NOTHING
    parts = [f"### published size on a GPU: {card}", targets(rows)]
    if about:
        limits = [
            f"{row['precision']} {row['limits']['flops'] / 1e12:.4g} TFLOP/s, copy "
            f"{row['limits']['bytes'] / 1e9:.4g} GB/s" for row in rows if "limits" in row
        ]  # fmt: skip
        parts += [f"{about['started']}; ceilings: {'; '.join(dict.fromkeys(limits))}."]
        parts += [kernels(rows), everything(rows)]
    return "\n\n".join(parts) + "\n"


def main(files: list[str]) -> int:
    for name in files:
        print(page(read_lines(Path(name))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
