"""One self-contained page, and the browser of items that its script draws.

Figures and items are JSON in the page; pictures lie apart, some dozens in a block that is read only
when one of them comes into view.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

BLOCK = 40  # items whose pictures share a block


def page(
    title: str, body: str, foot: str, report: Mapping[str, Any], browser: Mapping[str, Any],
    blocks: Iterable[str] = (),
) -> str:  # fmt: skip
    """Put a page together.

    Args:
        body, foot: HTML above and below the items.
        report: figures, for programs.
        browser: what the script needs. `items`: each with id, text, status, `why` (sentences),
            `values` and `codes` by series and metric (code "o" has a value; "f" failed, "n" not
            applicable, "m" missing). `filters`: key of an item, label and choices. `metrics`: name,
            meaning, better, worst. `orders`: word and label. `series`, `roles` of pictures and
            `block` too. `sparse`: leave missing values out.
        blocks: pictures, see `picture_block`.
    """
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


def picture_block(rows: Iterable[Mapping[str, str]]) -> str:
    """Addresses of the pictures of up to `BLOCK` items, by role."""
    return f'<script type="application/json" class="pictures">{_json(list(rows))}</script>'


def table(heading: Iterable[str], rows: Iterable[tuple[str, str, Iterable[str]]]) -> str:
    """A table that scrolls sideways; rows: class, name and cells."""
    head = "".join(f'<th scope="col">{text}</th>' for text in heading)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'
        for kind, name, cells in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def section(title: str, body: str) -> str:
    """A titled part of the page, unless it is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
