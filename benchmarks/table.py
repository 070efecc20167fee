"""Markdown tables from results: `python -m benchmarks.table FILE.json ...`.

`--readme` writes those of `results/*.json` to the end of `README.md`, below its marker.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editmgt_lib.evaluation.tables import markdown, percent

from .compare import effect

HERE = Path(__file__).parent
MARKER = "<!-- From here on made by `python -m benchmarks.table --readme`. -->"


def duration(record: dict[str, Any]) -> str:
    """Seconds or milliseconds, a reason, or a dash."""
    if "median" not in record:
        return record.get("missing", "-")
    seconds = record["median"]
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def rows_table(rows: list[dict[str, Any]]) -> str:
    """Ours beside the official code."""
    lines = []
    for row in rows:
        ours, official = row.get("ours", {}), row.get("official", {})
        if "median" not in {**ours, **official}:
            continue
        peaks = [f"{s['peak_mib']:.0f}" if "peak_mib" in s else "" for s in (ours, official)]
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("ratio", "cpu_ratio")]
        lines.append([row["name"], duration(ours), duration(official), *ratios, *peaks])
    head = ["", "ours", "official", "official / ours", "in CPU time", "our MiB", "official MiB"]
    return markdown(head, lines)


def effects_table(effects: dict[str, dict[str, float]]) -> str:
    """What a switch adds to a step."""
    lines = [
        [name, *(percent(cost.get(side)) for side in ("ours", "official"))]
        for name, cost in effects.items()
        if cost
    ]
    return markdown(["a step gets longer by", "ours", "official"], lines)


def tokens_table(runs: list[dict[str, Any]]) -> str:
    """Final tokens of runs with the same draws."""
    lines = []
    for found in runs:
        equal = f"{found['equal']} of {found['tokens']}" if "equal" in found else ""
        reasons = "; ".join(f"{side}: {why}" for side, why in found["missing"].items())
        lines.append([f"{found['name']}, {found['steps']} steps", equal or reasons])
    return markdown(["same weights, inputs and draws", "equal final tokens"], lines)


def ceiling_table(found: dict[str, Any]) -> str:
    """Work against the machine's measured ceilings."""
    limits = found["limits"]
    lines = [
        [
            row["name"], f"{row['flops'] / 1e9:.4g}", f"{row['bytes'] / 1e9:.3g}",
            f"{row['floor_s']:.3g} s", percent(row.get("ours")), percent(row.get("official")),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    head = ["", "GFLOP needed", "GB moved", "at the ceiling", "ours reaches", "official reaches"]
    matrix, copy = limits["flops"] / 1e9, limits["bytes"] / 1e9
    said = f"Measured ceilings: products {matrix:.4g} GFLOP/s, copy {copy:.3g} GB/s."
    return f"{said}\n\n{markdown(head, lines)}"


def scaling_table(axes: dict[str, list[dict[str, Any]]]) -> str:
    """Time and work along each axis, relative to its first point."""
    lines = []
    for name, points in axes.items():
        first = points[0]
        for point in points:
            grown = [
                f"{point[key] / first[key]:.2f}" if key in point and key in first else "-"
                for key in ("median", "flops")
            ]
            lines.append([f"{name}: {point['at']}", duration(point), *grown])
    return markdown(["", "ours", "time grows", "work grows"], lines)


def options_table(rows: list[dict[str, Any]]) -> str:
    """What each option gains; what it costs in quality is for `approximations` to say."""
    exact, *others = rows
    steps = exact["asked"]["steps"]
    lines = [[exact["name"], duration(exact["ours"]), ""]]
    for row in others:
        gain = effect(rows, row["name"], exact["name"]).get("ours")
        lines.append([row["name"], duration(row["ours"]), f"{1 + gain:.2f}" if gain else "-"])
    return markdown([f"sampling, {steps} steps, ours", "takes", "times as fast"], lines)


def memory_table(rows: list[dict[str, Any]]) -> str:
    """What offload saves and costs."""
    lines = [
        [row["name"], duration(row["ours"]), f"{row['ours'].get('peak_mib', 0):.0f}"]
        for row in rows
    ]
    return markdown(["whole edit, ours", "takes", "peak MiB"], lines)


def startup_table(found: dict[str, Any]) -> str:
    """Imports and loading."""
    lines = [[name, duration({"median": s}), ""] for name, s in found["imports"].items()]
    loading = found["loading"]
    name = f"load the transformer ({loading['mib']:.0f} MiB)"
    lines.append([name, duration({"median": loading["load"]}),
                  f"{loading['ratio']:.2f} of a plain read"])  # fmt: skip
    return markdown(["", "takes", ""], lines)


TABLES = {
    "rows": rows_table,
    "effects": effects_table,
    "memory": memory_table,
    "tokens": tokens_table,
    "options": options_table,
    "ceiling": ceiling_table,
    "scaling": scaling_table,
}


def across_table(precisions: dict[str, Any]) -> str:
    """Each precision of ours against each official one, whole edits without a map."""
    times = {}
    for name, found in precisions.items():
        for row in found.get("rows", []):
            if row["stage"] == "edit":
                read = "map read" if row["asked"].get("layers") else "nothing read"
                times[name, read] = row
    lines = [
        [f"{theirs}, {read}", *(_quotient(times[theirs, read], times.get((ours, "nothing read")))
                                for ours in precisions)]
        for theirs, read in times
    ]  # fmt: skip
    return markdown(["official whole edit / ours", *(f"ours {p}" for p in precisions)], lines)


def _quotient(official: dict[str, Any], ours: dict[str, Any] | None) -> str:
    above = official.get("official", {}).get("median")
    below = (ours or {}).get("ours", {}).get("median")
    return f"{above / below:.2f}" if above and below else "-"


def render(result: dict[str, Any]) -> str:
    """The whole page for one result."""
    m = result["machine"]
    parts = [
        f"### {result['config']}: {m['device']}, {m['threads']} CPU threads, torch {m['torch']}",
        f"{m['started']}, load average at the start {m['load']}.",
    ]
    for precision, found in result["precisions"].items():
        parts.append(f"**{precision}**")
        parts += [TABLES[name](found[name]) for name in TABLES if found.get(name)]
    if len(result["precisions"]) > 1:
        parts.append(across_table(result["precisions"]))
    if "startup" in result:
        parts.append(startup_table(result["startup"]))
    if result["lacks"]:
        parts.append("Not in these tables:\n\n" + "\n".join(f"- {x}" for x in result["lacks"]))
    return "\n\n".join(parts) + "\n"


def readme_with_results() -> str:
    """The README's own text, followed by the tables of all kept results."""
    text = (HERE / "README.md").read_text().partition(MARKER)[0]
    results = sorted((HERE / "results").glob("*.json"))
    pages = [render(json.loads(path.read_text())) for path in results]
    return "\n\n".join([text + MARKER, *(page.strip() for page in pages)]) + "\n"


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    if list(arguments) == ["--readme"]:
        (HERE / "README.md").write_text(readme_with_results())
        return 0
    for name in arguments:
        print(render(json.loads(Path(name).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
