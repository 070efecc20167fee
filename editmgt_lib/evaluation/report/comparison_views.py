"""A comparison in Markdown and as the body of a page."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ..tables import markdown
from .html import cell, metric_name, section, table
from .text import digits_for, shown, with_interval


def comparison_note(report: Mapping[str, Any]) -> str:
    """Say how to read the differences."""
    failures = {
        "worst": "a failed item counts as the metric's worst value",
        "drop": "ITEMS THAT FAILED IN EITHER RUN ARE LEFT OUT",
    }
    left_out = f" WITHOUT ITEMS WITH {', '.join(report['excluded'])}." if report["excluded"] else ""
    return (
        f"Differences are {report['names'][1]} minus {report['names'][0]}, {report['headline']}, "
        f"over the items that both have; {failures[report['failures']]}. Brackets hold 95 % "
        f"intervals of a paired bootstrap ({report['draws']:,} draws) by source picture. An "
        "interval without 0 shows a difference; among many metrics and tasks one in twenty does "
        "so by chance. Detectable is the smallest true difference that these items would show in "
        f"8 of 10 cases.{left_out}"
    )


def comparison_text(report: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    first, second = report["names"]
    heading = ("metric", first, second, "difference [95 %]", "n", "detectable", "reading")
    lines = [_line(name, row, report["headline"]) for name, row in report["comparisons"].items()]
    parts = [
        f"# {report['dataset']}: {second} minus {first}",
        comparison_note(report),
        markdown(heading, lines),
    ]
    for name, row in report["comparisons"].items():
        by_task = row["difference"]["tasks"].items()
        tasks = [(task, with_interval(by, True), str(by["n"])) for task, by in by_task]
        parts.append(f"## {name}\n\n{markdown(('task', 'difference [95 %]', 'n'), tasks)}")
        if row["most"]:
            most = [(m["item"], shown(m["change"], 4, True)) for m in row["most"]]
            parts.append(f"Changed most:\n\n{markdown(('item', 'change'), most)}")
    if report["differences"]:
        lines = "\n".join(f"- {line}" for line in report["differences"])
        parts.append(f"## How the runs differ\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def _line(name: str, row: Mapping[str, Any], mean: str) -> tuple[str, ...]:
    by, sides = row["difference"][mean], (row["first"][mean], row["second"][mean])
    return (
        name,
        *(shown(side["mean"], digits_for(side["error"])) for side in sides),
        with_interval(by, signed=True),
        str(by["n"]),
        shown(row["detectable"], digits_for(row["detectable"])),
        row["reading"],
    )


def comparison_body(report: Mapping[str, Any]) -> str:
    """Everything above the items."""
    mean = report["headline"]
    heading = (*map(escape, report["names"]), "difference", "detectable", "reading")
    rows = "".join(
        f'<tr><th scope="row">{metric_name(name, report["metrics"][name])}</th>'
        f"{cell(row['first'][mean])}{cell(row['second'][mean])}"
        f"{cell(row['difference'][mean], signed=True)}"
        f"<td>{shown(row['detectable'], digits_for(row['detectable']))}</td>"
        f'<td class="{row["reading"].split()[0]}">{row["reading"]}</td></tr>'
        for name, row in report["comparisons"].items()
    )
    head = "".join(f'<th scope="col">{text}</th>' for text in heading)
    whole = (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    others = "".join(f"<li>{escape(line)}</li>" for line in report["differences"])
    return (
        f'<p class="note">{escape(comparison_note(report))}</p>'
        + section("All tasks", whole)
        + section("Differences by task", _by_task(report))
        + section("How the runs differ", f"<ul>{others}</ul>" if others else "")
    )


def _by_task(report: Mapping[str, Any]) -> str:
    by_metric = [row["difference"] for row in report["comparisons"].values()]
    rows = [
        ("", task, [cell(by["tasks"][task], signed=True) for by in by_metric])
        for task in report["tasks"]
    ]
    rows += [
        ("total", mean, [cell(by[mean], signed=True) for by in by_metric])
        for mean in ("macro", "micro")
    ]
    return table([metric_name(n, m) for n, m in report["metrics"].items()], rows)
