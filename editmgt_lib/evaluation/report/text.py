"""Numbers and the report in Markdown."""

from collections.abc import Iterator, Mapping
from math import floor, log10
from typing import Any

from ...pages.markdown import markdown

COUNTS = {
    "failed": "failed",
    "not_applicable": "n/a",
    "infinite": "infinite",
    "missing": "not scored",
}
"""What is counted beside a mean, and what it is called."""
BETWEEN = (
    "Mean and standard deviation (SD) over runs that differ in chance alone: repeats of the judge, "
    "or seeds of the editor. It comes on top of the intervals above."
)
BETWEEN_HEADING = ("metric", "runs", "macro ± SD", "micro ± SD")


def digits_for(step: float | None) -> int:
    """Decimals that show two digits of a standard error, or three without one."""
    return max(0, min(6, 1 - floor(log10(step)))) if step else 3


def shown(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number, or a dash; minus zero is zero."""
    if value is None:
        return "-"
    value = round(value, digits) + 0.0
    return f"{value:{'+' if signed and value else ''}.{digits}f}"


def with_interval(cell: Mapping[str, Any], signed: bool = False) -> str:
    """ "0.812 [0.790, 0.833]", to the digits that the standard error allows."""
    digits = digits_for(cell["error"])
    mean = shown(cell["mean"], digits, signed)
    if cell["low"] is None:
        return mean
    low, high = (shown(cell[name], digits, signed) for name in ("low", "high"))
    return f"{mean} [{low}, {high}]"


def counted(cell: Mapping[str, Any]) -> str:
    """ "n 30, 2 failed, 1 n/a"."""
    others = [f"{cell[key]} {word}" for key, word in COUNTS.items() if cell.get(key)]
    return ", ".join([f"n {cell['n']}", *others])


def report_text(report: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {report['dataset']}: {report['run']}"
    yield summary_line(report)
    yield f"## All metrics\n\n{how_to_read(report)}\n\n{_overview(report)}"
    for name in report["metrics"]:
        yield _metric_part(report, name)
    if report["between"]:
        yield f"## Between runs\n\n{BETWEEN}\n\n{_between(report)}"
    yield "## What made the run"
    for stage, values in report["facts"].items():
        yield f"**{stage}**\n\n" + "\n".join(f"- {k}: `{v}`" for k, v in values.items())


def _between(report: Mapping[str, Any]) -> str:
    lines = [(row["name"], *between_cells(row)) for row in report["between"]]
    return markdown(("", *BETWEEN_HEADING), lines)


def between_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Metric, number of runs, and mean and deviation of both means."""
    cells = [
        f"{shown(row[kind]['mean'], digits)} ± {shown(row[kind]['deviation'], digits)}"
        for kind in ("macro", "micro")
        for digits in [digits_for(row[kind]["deviation"])]
    ]
    return (row["metric"], str(row["runs"]), *cells)


def summary_line(report: Mapping[str, Any]) -> str:
    """Counts of items, failures and known defects in one line."""
    items = report["items"]
    parts = [
        f"{items['total']} items in {len(report['tasks'])} tasks",
        f"{items['edited']} edited",
        f"{items['edits_failed']} edits failed",
    ]
    if items["seconds_per_edit"]:
        parts.append(f"{items['seconds_per_edit']['median']:.2f} s per edit (median)")
    return ", ".join(parts) + "." + _defects(report)


def _defects(report: Mapping[str, Any]) -> str:
    found = [
        f"{name} {count}{' (LEFT OUT)' if name in report['excluded'] else ''}"
        for name, count in report["defects"].items()
    ]
    return f" Items with known defects: {', '.join(found)}." if found else ""


def how_to_read(report: Mapping[str, Any]) -> str:
    """Say what a mean, an interval and a failure are."""
    failures = {
        "worst": "A failed item counts as the metric's worst value.",
        "drop": "FAILED ITEMS ARE LEFT OUT, as in some old tables; this favours editors that fail.",
    }
    return (
        f"Macro is the mean of the tasks' means, micro that of all items; the benchmark's own "
        f"tables print {report['headline']}. Brackets hold 95 % intervals of a bootstrap "
        f"({report['draws']:,} draws) by source picture, for macro within tasks. "
        f"{failures[report['failures']]} Infinite values and items to which a metric does not "
        "apply are left out and counted. Where all values are equal a bootstrap cannot tell, and "
        "there is no interval."
    )


def _overview(report: Mapping[str, Any]) -> str:
    lines = [
        (f"{row['name']}, {mean}", *(_mean(row["figures"][n][mean]) for n in report["metrics"]))
        for row in report["rows"]
        for mean in ("macro", "micro")
    ]
    return markdown(("", *report["metrics"]), lines)


def _mean(cell: Mapping[str, Any]) -> str:
    return shown(cell["mean"], digits_for(cell["error"]))


def _metric_part(report: Mapping[str, Any], name: str) -> str:
    metric = report["metrics"][name]
    heading = ("", "mean [95 %]", "n", *COUNTS.values())
    lines = [
        _line(f"{row['name']}, {scope}" if len(report["rows"]) > 1 else scope, cell)
        for row in report["rows"]
        for scope, cell in _scopes(row["figures"][name], tasks=not row["baseline"])
    ]
    parts = [f"## {name}", f"{metric['meaning']}; {metric['better']} is better."]
    parts.append(markdown(heading, lines))
    parts += [
        f"Against {other}, over the same items: {with_interval(figures[name]['micro'], True)} "
        f"(micro), {with_interval(figures[name]['macro'], True)} (macro)."
        for other, figures in report["against"].items()
        if figures[name]["micro"]["n"]
    ]
    if found := report["detectable"][name][report["headline"]]:
        parts.append(detectable_line(found, report["headline"]))
    return "\n\n".join(parts)


def detectable_line(found: Mapping[str, float], mean: str) -> str:
    """The smallest detectable difference in words."""
    digits = digits_for(found["0.5"])
    return (
        f"Smallest difference that another run would show ({mean}, 80 % power at 5 %): "
        f"{shown(found['0.5'], digits)} if the two correlate by 0.5 over the items, "
        f"{shown(found['0'], digits)} if not at all."
    )


def _scopes(figures: Mapping[str, Any], tasks: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if tasks:
        yield from figures["tasks"].items()
    yield "macro", figures["macro"]
    yield "micro", figures["micro"]


def _line(label: str, cell: Mapping[str, Any]) -> tuple[str, ...]:
    return (label, with_interval(cell), str(cell["n"]), *(str(cell[key]) for key in COUNTS))
