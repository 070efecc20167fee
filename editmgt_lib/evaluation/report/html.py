"""The parts of the page that need no script: head, tables, plots, facts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from ...pages.page import section, table
from .charts import bars, histogram
from .text import (
    BETWEEN,
    BETWEEN_HEADING,
    between_cells,
    counted,
    detectable_line,
    digits_for,
    how_to_read,
    shown,
    summary_line,
    with_interval,
)

_FIRST = (
    "editor", "model", "weights", "sampling.steps", "sampling.guidance", "sampling.threshold",
    "resolution", "seed", "dtype", "device", "versions.editmgt",
)  # fmt: skip
ARROWS = {"higher": "↑", "lower": "↓"}


def metric_name(name: str, metric: Mapping[str, Any]) -> str:
    """A metric with its meaning on hover; long names break at their slashes."""
    title = f"{name}: {metric['meaning']}; {metric['better']} is better"
    arrow = ARROWS[metric["better"]]
    text = escape(name).replace("/", "/<wbr>")
    return f'<abbr title="{escape(title)}">{text}&nbsp;{arrow}</abbr>'


def cell(figures: Mapping[str, Any] | None, signed: bool = False, counts: bool = True) -> str:
    """A mean, its interval and what it counts, one below the other."""
    if figures is None or figures["mean"] is None:
        note = f"<small>{escape(counted(figures))}</small>" if figures and counts else ""
        return f'<td class="none">-{note}</td>'
    mean, _, interval = with_interval(figures, signed).partition(" ")
    note = f"<small>{interval}</small>" if interval else ""
    if counts:
        text = re.sub(r"\d+ (failed|not scored)", r"<b>\g<0></b>", escape(counted(figures)))
        note += f"<small>{text}</small>"
    return f"<td>{mean}{note}</td>"


def report_body(report: Mapping[str, Any], figure: str = "") -> str:
    """Everything above the items; figure: of a sweep, as SVG."""
    parts = [
        f"<p>{escape(summary_line(report))}</p>",
        f'<p class="made">{_made(report["facts"].get("generate", {}))}</p>',
        f'<p class="note">{escape(how_to_read(report))}</p>',
        section("All tasks", _overview(report)),
    ]
    if figure:
        parts.append(section("Sweep", f'<div class="card figure7">{figure}</div>'))
    parts.append(_between(report))
    main = [row for row in report["rows"] if not row["baseline"]]
    parts.append(section("By task", _by_task(report, main[0]) if len(main) == 1 else ""))
    others = [row for row in report["rows"] if row is not main[0] or len(main) > 1]
    if len(main) > 1:
        parts.append(f"<p>Items: {', '.join(_link(row['name']) for row in main)}</p>")
    parts += [_details(f"By task: {r['name']}", _by_task(report, r)) for r in others]
    if len(main) == 1:
        parts.append(section("Metrics", f'<div class="cards">{"".join(_cards(report))}</div>'))
    return "".join(part for part in parts if part)


def _between(report: Mapping[str, Any]) -> str:
    """The spread between runs, if any was measured."""
    rows = [
        ("", row["name"], [f"<td>{escape(text)}</td>" for text in between_cells(row)])
        for row in report["between"]
    ]
    if not rows:
        return ""
    return section("Between runs", f'<p class="note">{BETWEEN}</p>{table(BETWEEN_HEADING, rows)}')


def _link(name: str) -> str:
    """To the report of a point of the sweep."""
    return f'<a href="sweep/{escape(quote(name))}/report.html">{escape(name)}</a>'


def _made(generated: Mapping[str, str]) -> str:
    """The few facts that a reader asks for first."""
    found = [f"{escape(k)} <b>{escape(generated[k])}</b>" for k in _FIRST if k in generated]
    return "".join(f"<span>{text}</span>" for text in found)


def facts_body(facts: Mapping[str, Mapping[str, str]]) -> str:
    """What made the run, by stage."""
    blocks = "".join(
        f"<div><h3>{escape(stage)}</h3><dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items())
        + "</dl></div>"
        for stage, values in facts.items()
    )
    return section("What made the run", f'<div class="facts">{blocks}</div>')


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _heading(report: Mapping[str, Any]) -> list[str]:
    return [metric_name(name, metric) for name, metric in report["metrics"].items()]


def _overview(report: Mapping[str, Any]) -> str:
    names = list(report["metrics"])
    rows = [
        (
            "baseline" if row["baseline"] else "run",
            f"{row['name']}, {mean}",
            [cell(row["figures"].get(name, {}).get(mean)) for name in names],
        )
        for row in report["rows"]
        for mean in ("macro", "micro")
    ]
    mean = report["headline"]
    rows += [
        (
            "minus",
            f"this run minus {other}, {mean}",
            [cell(figures[name][mean], signed=True, counts=False) for name in names],
        )
        for other, figures in report["against"].items()
    ]
    found = [report["detectable"][name][mean] for name in names]
    cells = [f"<td>{shown(f['0.5'], digits_for(f['0.5'])) if f else '-'}</td>" for f in found]
    rows.append(("minus", f"smallest detectable difference, {mean}", cells))
    return table(_heading(report), rows)


def _by_task(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    figures = [row["figures"][name] for name in report["metrics"]]
    rows = [("", task, [cell(f["tasks"].get(task)) for f in figures]) for task in report["tasks"]]
    rows += [("total", mean, [cell(f[mean]) for f in figures]) for mean in ("macro", "micro")]
    return table(_heading(report), rows)


def _cards(report: Mapping[str, Any]) -> Iterator[str]:
    mean = report["headline"]
    main, *others = report["rows"]
    for name, metric in report["metrics"].items():
        own = _bar_cells(main["figures"][name], mean)
        marks = {
            row["name"]: [c for _, c in _bar_cells(row["figures"][name], mean)] for row in others
        }
        chart = bars(own, marks)
        found = report["detectable"][name][mean]
        yield (
            f'<article class="card"><h3>{metric_name(name, metric)}</h3>'
            f"<p>{escape(metric['meaning'])}; {metric['better']} is better.</p>"
            f"{chart}{_legend(marks) if chart else ''}{histogram(report['histograms'][name])}"
            + (f"<p>{escape(detectable_line(found, mean))}</p>" if found else "")
            + "</article>"
        )


def _bar_cells(figures: Mapping[str, Any], mean: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [*figures["tasks"].items(), (mean, figures[mean])]


def _legend(marks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    known = [
        f'<span class="key key{number}">{escape(name)}</span>'
        for number, (name, cells) in enumerate(marks.items())
        if any(c["mean"] is not None for c in cells)
    ]
    return f'<p class="legend">{"".join(known)}</p>' if known else ""
