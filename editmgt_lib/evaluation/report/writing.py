"""Stage report: scores -> report.md, report.json and report.html in the run's folder."""

import json
from collections.abc import Mapping
from typing import Any

from ...files import atomic_write_bytes, atomic_write_json
from ..runs import RunFolder
from ..sweeps import Figure, Point, figure
from .document import document, results_of
from .html import facts_body, report_body
from .options import DEFAULT, ReportOptions
from .page import browser_of, page, picture_blocks
from .text import report_text


def write_report(run: RunFolder, options: Mapping[str, Any] | ReportOptions = DEFAULT) -> None:
    """Write the three forms of a report; that of a run which only swept has no items.

    options: by name, see `ReportOptions`.
    Raises InputError for unknown options and if nothing is scored.
    """
    if not isinstance(options, ReportOptions):
        options = ReportOptions.of(options)
    mains, baselines = results_of(run, options.exclude)
    report = document(run, mains, baselines, options.counting, options.exclude)
    atomic_write_json(run.path / "report.json", report)
    atomic_write_bytes(run.path / "report.md", report_text(report).encode())
    browser, blocks = {"items": []}, ()
    if len(mains) == 1:
        results = mains[0]
        browser = browser_of(mains, report)
        browser["size"], blocks = picture_blocks(
            results.items, {"result": results.run}, options, run.path
        )
        browser["roles"] = ["source", "map", "result", "reference"]
    text = page(
        f"{report['dataset']}: {report['run']}",
        report_body(report, _figure7(run.root)),
        facts_body(report["facts"]),
        report,
        browser,
        blocks,
    )
    atomic_write_bytes(run.path / "report.html", text.encode())


def _figure7(run: RunFolder) -> str:
    """The sweep as a plot, if one numeric option was swept."""
    if not (run.path / "sweep.svg").is_file() or not (run.path / "sweep.json").is_file():
        return ""
    rows = json.loads((run.path / "sweep.json").read_text("utf-8"))["points"]
    points = [
        Point(row["values"], {name: Figure(**values) for name, values in row["figures"].items()})
        for row in rows
    ]
    return figure(points, next(iter(points[0].values)))
