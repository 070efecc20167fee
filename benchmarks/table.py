"""Markdown tables from results: `python -m benchmarks.table [FILE.json ...]`.

Without files those of the results `SHOWN`, and that of a GPU run, are written to the end of
`README.md`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editmgt_lib.pages.markdown import markdown, percent

from . import curation, gpu_table, records
from .clock import duration

HERE = Path(__file__).parent
SHOWN = ("kernels", "mid-cpu", "training-cpu", "study-cpu", "curation-cpu")  # in results/, if there
PEAK_FLOPS = 790e12  # bfloat16 products of an H100
MARKER = "<!-- Below: written by `python -m benchmarks.table`. -->"


def rows_table(rows: list[dict[str, Any]], reached: dict[str, dict[str, Any]]) -> str:
    """Ours beside the official code, and how close both come to the ceiling."""
    lines = []
    for row in rows:
        ours, official = row["ours"], row.get("official", {})
        if "median" not in {**ours, **official}:
            continue
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("ratio", "cpu_ratio")]
        peaks = [f"{s['peak_mib']:.0f}" if "peak_mib" in s else "" for s in (ours, official)]
        rates = [_rate(row, side) for side in (ours, official)]
        shares = [""] * 3
        if limit := reached.get(row["name"]):
            sides = [percent(limit[s]) if s in limit else "" for s in ("ours", "official")]
            shares = [f"{limit['flops'] / 1e9:.4g}", *sides]
        times = duration(ours), duration(official)
        lines.append([row["name"], *times, *ratios, *rates, *peaks, *shares])
    head = ["", "ours", "official", "official / ours", "in CPU time", "our tokens/s",
            "official tokens/s", "our MiB", "official MiB", "GFLOP", "ours reaches",
            "official reaches"]  # fmt: skip
    columns = [c for c in zip(head, *lines, strict=True) if set(c[1:]) - {"", "-"}]
    head, *lines = zip(*columns, strict=True)
    return markdown(head, lines)


def _rate(row: dict[str, Any], side: dict[str, Any]) -> str:
    """Target tokens per second, of rows that state how many they process."""
    return f"{row['tokens'] / side['median']:.0f}" if "tokens" in row and "median" in side else ""


def tokens_table(records: list[dict[str, Any]]) -> str:
    """Equal final tokens of runs with the same draws."""
    lines = []
    for record in records:
        equal = f"{record['equal']} of {record['tokens']}" if "equal" in record else ""
        reasons = "; ".join(f"{side}: {why}" for side, why in record["missing"].items())
        lines.append([record["name"], equal or reasons])
    return markdown(["same weights, inputs and draws", "equal final tokens"], lines)


def options_table(rows: list[dict[str, Any]]) -> str:
    """What each option saves; what it costs is for the study to say."""
    exact = rows[0]["ours"]
    lines = []
    for row in rows:
        gain = exact["median"] / row["ours"]["median"] if "median" in row["ours"] else None
        peak = f"{row['ours'].get('peak_mib', 0):.0f}"
        lines.append([row["name"], duration(row["ours"]), f"{gain:.2f}" if gain else "-", peak])
    steps = rows[0]["asked"]["steps"]
    kind = "sampling" if rows[0]["stage"] == "sample" else "whole edit with text"
    return markdown([f"our {kind}, {steps} steps", "takes", "times as fast", "peak MiB"], lines)


def study_table(result: dict[str, Any]) -> str:
    """What each option saves and costs on ToyWorld."""
    lines = [
        (
            r["option"], f"{r['speed-up']:.2f}", f"{r['success']:.1%}",
            f"{r['outside error']:.4f}", f"{r['same tokens']:.2%}",
        )
        for r in result["options"]
    ]  # fmt: skip
    return markdown(("option", "speed-up", "success", "outside error", "same tokens"), lines)


def counts_table(result: dict[str, Any]) -> str:
    """Kernels and waits of a step, beside the time its products take at the ceiling."""
    head = ["one step", "kernels", "views", "host waits", "GB moved", "TFLOP", "products alone"]
    lines = [
        [
            r["name"], str(r["kernels"]), str(r["views"]), str(r["syncs"]),
            f"{r['bytes'] / 1e9:.1f}", f"{r['flops'] / 1e12:.2f}",
            f"{1000 * r['flops'] / PEAK_FLOPS:.1f} ms",
        ]
        for r in (*result.get("before", ()), *result["counted"])
    ]  # fmt: skip
    title = f"### A step's kernels, {result['config']} size in bfloat16, counted on torch "
    return f"{title}{result['torch']}\n\n{markdown(head, lines)}\n{_compiled(result)}"


def _compiled(result: dict[str, Any]) -> str:
    """What compiling makes of the blocks."""
    if "compiled" not in result:
        return ""
    c = result["compiled"]
    each = ", ".join(f"{h['products']} + {h['kernels']}" for h in c["halves"])
    return (
        f"\nCompiled blocks, as inductor writes them for a CPU: {c['graphs']} graphs of {each} "
        f"products and other kernels, {c['launches']} launches of all blocks with attention.\n"
    )


def heading(result: dict[str, Any]) -> str:
    """What was measured, where and when."""
    m = result["machine"]
    return (
        f"### {result['config']}: {m['device']}, {m['threads']} CPU threads, torch {m['torch']}\n\n"
        f"{m['started']}, load average at the start {m['load']}."
    )


def render(result: dict[str, Any]) -> str:
    """All tables of one result, of the bench, of the study or of the kernels."""
    if "counted" in result:
        return counts_table(result)
    parts = [heading(result)]
    if "curation" in result:
        return "\n\n".join([*parts, *curation.tables(result)]) + "\n"
    if "options" in result:
        return "\n\n".join([*parts, study_table(result)]) + "\n"
    for precision, measured in result["precisions"].items():
        ceiling = measured.get("ceiling", {"limits": None, "rows": []})
        if limits := ceiling["limits"]:
            parts.append(
                f"**{precision}**; ceilings: products {limits['flops'] / 1e9:.4g} GFLOP/s, "
                f"copy {limits['bytes'] / 1e9:.3g} GB/s."
            )
        else:
            parts.append(f"**{precision}**")
        parts.append(rows_table(measured["rows"], {r["name"]: r for r in ceiling["rows"]}))
        if measured.get("tokens"):
            parts.append(tokens_table(measured["tokens"]))
        parts += [options_table(measured[k]) for k in ("options", "offload") if measured.get(k)]
    if result["lacks"]:
        parts.append("Not in these tables:\n\n" + "\n".join(f"- {x}" for x in result["lacks"]))
    return "\n\n".join(parts) + "\n"


def readme_with_results() -> str:
    """The README's own text followed by tables."""
    text = (HERE / "README.md").read_text(encoding="utf-8").partition(MARKER)[0]
    results = [HERE / "results" / f"{name}.json" for name in SHOWN]
    pages = [render(records.read(p)) for p in results if p.is_file()]
    pages.append(gpu_table.page(records.read_lines(HERE / "results" / "gpu.jsonl")))
    return "\n\n".join([text + MARKER, *(page.strip() for page in pages)]) + "\n"


def main(files: Sequence[str]) -> int:
    if not files:
        (HERE / "README.md").write_text(readme_with_results(), encoding="utf-8")
    for name in files:
        print(render(records.read(Path(name))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
