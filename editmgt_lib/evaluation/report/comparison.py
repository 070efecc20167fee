"""Two runs over the same items: paired differences, and the items that changed most."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...files import atomic_write_bytes, atomic_write_json
from ...pages.page import page
from ..manifest import differences
from ..naming import Meaning, meanings_of
from ..runs import RunFolder
from ..statistics import paired, smallest_difference
from .comparison_views import comparison_body, comparison_text
from .document import facts, headline
from .figures import Results, difference
from .html import facts_body
from .options import DEFAULT, ReportOptions
from .page import browser_of, picture_blocks

MOST = 20
_SAME_DATA = ("dataset", "digest", "items", "revisions", "chains")


def write_comparison(
    first: RunFolder,
    second: RunFolder,
    out: Path,
    options: Mapping[str, Any] | ReportOptions = DEFAULT,
    metrics: Sequence[str] | None = None,
) -> None:
    """Write compare.md, compare.json and compare.html into the folder `out`.

    metrics: compare these; None demands that both runs have the same ones.
    Raises InputError if the runs' data, items or metrics differ, naming what does.
    """
    if not isinstance(options, ReportOptions):
        options = ReportOptions.of(options)
    _require_same_data(first, second)
    names = _names(first, second)
    results = [
        Results.read(name, run, options.exclude)
        for name, run in zip(names, (first, second), strict=True)
    ]
    found = _common_metrics(results, metrics)
    report = _document(results, found, options)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out / "compare.json", report)
    atomic_write_bytes(out / "compare.md", comparison_text(report).encode())
    browser = browser_of(results, report)
    runs = {one.name: one.run for one in results}
    browser["size"], blocks = picture_blocks(results[0].items, runs, options, out)
    browser["roles"] = ["source", *names, "reference"]
    title = f"{report['dataset']}: {names[0]} and {names[1]}"
    text = page(title, comparison_body(report), facts_body(report["facts"]), report, browser,
                blocks)  # fmt: skip
    atomic_write_bytes(out / "compare.html", text.encode())


def _names(first: RunFolder, second: RunFolder) -> list[str]:
    """What to call the runs: the end of their paths, as long as it takes to tell them apart."""
    paths = [run.path.resolve().parts for run in (first, second)]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if names[0] != names[1]:
            return names
    raise InputError(f"{first.path} would be compared with itself; name two runs")


def _require_same_data(first: RunFolder, second: RunFolder) -> None:
    for run in (first, second):
        run.items()  # raises if it is not prepared
    stated = [
        {name: run.root.manifest["prepare"].get(name) for name in _SAME_DATA}
        for run in (first, second)
    ]
    if found := differences(*stated):
        raise InputError(
            f"{first.path} and {second.path} have other data and cannot be compared: "
            f"{'; '.join(found)}"
        )


def _common_metrics(results: Sequence[Results], chosen: Sequence[str] | None) -> dict[str, Meaning]:
    names = [list(one.scores) for one in results]
    for one, known in zip(results, names, strict=True):
        if lacking := [name for name in chosen or () if name not in known]:
            raise InputError(
                f"{one.run.path} has no scores named {lacking[0]!r}; it has {', '.join(known)}"
            )
    if chosen is None and (other := sorted(set(names[0]) ^ set(names[1]))):
        raise InputError(
            f"the runs have other metrics: only one of them has {', '.join(other)}; score both "
            "alike, or name those to compare with --metrics"
        )
    if not (found := meanings_of(chosen or names[0])):
        raise InputError(f"{results[0].run.path} has no scores; run the stage score first")
    return found


def _document(
    results: Sequence[Results], metrics: Mapping[str, Meaning], options: ReportOptions
) -> dict[str, Any]:
    first, second = results
    counting = options.counting
    rows = {}
    for name, metric in metrics.items():
        by = difference(second, first, metric, counting)
        error = by[headline(first.run)]["error"]
        rows[name] = {
            "first": first.figures(metric, counting).to_dict(),
            "second": second.figures(metric, counting).to_dict(),
            "difference": by,
            "reading": _reading(by[headline(first.run)], metric),
            "detectable": None if error is None else smallest_difference(error),
            "most": _changed_most(first, second, metric, options.failures),
        }
    return {
        "dataset": first.run.root.manifest["prepare"]["dataset"],
        "names": [first.name, second.name],
        "headline": headline(first.run),
        "failures": options.failures,
        "excluded": list(options.exclude),
        "draws": options.draws,
        "tasks": {task: sum(i.task == task for i in first.items) for task in first.tasks},
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "comparisons": rows,
        "differences": differences(*(facts(one.run) for one in results)),
        "facts": {
            f"{one.name}: {stage}": values
            for one in results
            for stage, values in facts(one.run).items()
        },
    }


def _reading(by: Mapping[str, Any], metric: Meaning) -> str:
    """What the interval of a difference says of the second run."""
    if by["low"] is None:
        return "too few items"
    if by["low"] <= 0 <= by["high"]:
        return "no difference shown"
    return "better" if by["mean"] * metric.sign > 0 else "worse"


def _changed_most(
    first: Results, second: Results, metric: Meaning, failures: str
) -> list[dict[str, Any]]:
    """The items whose value changed most, largest first."""
    column = paired(second.column(metric, failures), first.column(metric, failures))
    order = np.argsort(-np.abs(column.values), kind="stable")[:MOST]
    return [
        {"item": column.items[k], "change": float(column.values[k])}
        for k in order
        if column.values[k]
    ]
