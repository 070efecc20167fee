"""One self-contained page: the parts of `html`, and a browser of items that the script draws.

The figures and the items are JSON in the page; pictures lie apart, some dozens in a block that is
read only when one of them comes into view.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import isinf
from pathlib import Path
from typing import Any

from ..items import Item, Score
from ..runs import RunFolder
from .figures import Results
from .options import ReportOptions
from .thumbnails import fitting_size, links, paths_of, thumbnails

BLOCK = 40
_CODES = {"ok": "o", "failed": "f", "n/a": "n"}  # "m": not scored


def page(
    title: str, body: str, foot: str, report: Mapping[str, Any], browser: Mapping[str, Any],
    blocks: Iterable[str] = (),
) -> str:  # fmt: skip
    """The whole page. report: the figures as in report.json; browser: see `browser_of`."""
    parts = {
        "title": escape(title),
        "style": _asset("page.css"),
        "body": body,
        "foot": foot,
        "report": _json(report),
        "browser": _json(browser),
        "pictures": "\n".join(blocks),
        "script": _asset("page.js"),
    }
    text = _asset("page.html")
    pieces = text.split("{{")  # once over the template, not over what was put in
    found = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        found += [parts[name], rest]
    return "".join(found)


def browser_of(series: Sequence[Results], report: Mapping[str, Any]) -> dict[str, Any]:
    """What the script needs of the items; series: the runs shown, the first decides the order."""
    metrics = report["metrics"]
    attempts = [one.run.attempts() for one in series]
    names = list(metrics)
    rows = []
    for item in series[0].items:
        found = [[one.scores.get(name, {}).get(item.id) for name in names] for one in series]
        reasons = [k[item.id].reason for k in attempts if item.id in k]
        rows.append(_row(item, found, next(filter(None, reasons), "")))
    return {
        "series": [one.name for one in series],
        "metrics": [
            {key: m[key] for key in ("name", "meaning", "better", "worst")}
            for m in metrics.values()
        ],
        "tasks": list(report["tasks"]),
        "failures": report["failures"],
        "block": BLOCK,
        "items": rows,
    }


def _row(item: Item, scores: Sequence[Sequence[Score | None]], reason: str) -> dict[str, Any]:
    """One item. values, codes: by series, then metric; why: reasons of what is not ok."""
    whys = dict.fromkeys(s.reason for row in scores for s in row if s and s.reason)
    codes = ["".join(_CODES[s.status] if s else "m" for s in row) for row in scores]
    every = "".join(codes)
    failed = "f" in every or (reason and "o" not in every)
    return {
        "id": item.id,
        "task": item.task,
        "text": item.instruction,
        "status": "failed" if failed else "ok" if "o" in every else "n/a",
        "values": [[_value(s) for s in row] for row in scores],
        "codes": codes,
        "why": list(dict.fromkeys(filter(None, [reason, *whys]))),
    }


def _value(score: Score | None) -> float | str | None:
    if score is None or score.value is None:
        return None
    return str(score.value) if isinf(score.value) else float(f"{score.value:.6g}")


def picture_blocks(
    items: Sequence[Item], runs: Mapping[str, RunFolder], options: ReportOptions, folder: Path
) -> tuple[int | None, Iterator[str]]:
    """Size of the small pictures, None for links, and the blocks that hold them.

    runs: by what their result is called. folder: where the page will be.
    """
    if options.pictures == "none":
        return None, iter(())
    size = None
    if options.pictures == "embed":
        paths = [paths_of(item, runs) for item in items] if options.size is None else []
        size = options.size or fitting_size(paths, options.megabytes)
    return size, _blocks(items, runs, size, folder)


def _blocks(
    items: Sequence[Item], runs: Mapping[str, RunFolder], size: int | None, folder: Path
) -> Iterator[str]:
    for start in range(0, len(items), BLOCK):
        paths = [paths_of(item, runs) for item in items[start : start + BLOCK]]
        rows = [thumbnails(p, size) if size else links(p, folder) for p in paths]
        yield f'<script type="application/json" class="pictures">{_json(rows)}</script>'


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
