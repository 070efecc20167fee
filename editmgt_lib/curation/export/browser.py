"""The page to look through rows by verdict, reason and category."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from ...data.rows import clean
from ...errors import InputError
from ...pages.page import BLOCK, page, picture_block, section, table
from ...pages.thumbnails import fitting_size, outline_uri, picture_uri
from ..decide import Decision
from ..decoding import decode_picture
from ..rows import KEEP, Row
from .columns import COLUMNS
from .pictures import EDITED, MASK
from .selection import category_of, has_picture, numbers_of
from .survey import NONE

MEGABYTES = 40.0  # of all pictures on the page
_MEANINGS = {column.value: column.meaning for column in COLUMNS if column.value}
_VALUES = ("scores", "quality")  # stages whose numbers are listed; of images, those that decided
_ORDERS = (("data", "mixed"), ("low", "lowest first"), ("high", "highest first"))

Sample = Sequence[tuple[Row, Decision]]


def rows_page(title: str, card: Mapping[str, Any], sample: Sample) -> str:
    """The whole page, pictures included. sample: rows to show."""
    names = _metric_names(sample)
    size = fitting_size(lambda k, size: _pictures(*sample[k], size), len(sample), MEGABYTES)
    browser = {
        "series": ["row"],
        "metrics": [{"name": n, "meaning": _MEANINGS.get(n, n), "better": ""} for n in names],
        "filters": [
            _choices("status", "Verdict", (d.verdict for _, d in sample)),
            _choices("reason", "Reason", (_reason(d) for _, d in sample)),
            _choices("category", "Category", (category_of(r) or NONE for r, _ in sample)),
        ],
        "orders": _ORDERS,
        "sparse": True,
        "block": BLOCK,
        "roles": ["before", "after"],
        "items": [_item(row, decision, names) for row, decision in sample],
    }
    return page(title, _body(card, len(sample)), "", card, browser, _blocks(sample, size))


def _choices(key: str, label: str, found: Iterator[str]) -> dict[str, Any]:
    return {"key": key, "label": label, "choices": sorted({value for value in found if value})}


def _reason(decision: Decision) -> str:
    return "" if decision.verdict == KEEP else f"{decision.stage}: {decision.reason}"


def _metric_names(sample: Sample) -> list[str]:
    """Values that at least one of the rows has, and those that decided about one."""
    found: dict[str, None] = {}
    for row, decision in sample:
        for stage in _VALUES:
            if stage in row.found:
                found |= dict.fromkeys(f"{stage}.{name}" for name, _ in numbers_of(row, stage))
        if isinstance(decision.measured, (int, float)):
            found[f"{decision.stage}.{decision.reason}"] = None
    known = [name for name in _MEANINGS if name in found]
    return [*known, *sorted(name for name in found if name not in _MEANINGS)]


def _item(row: Row, decision: Decision, names: Sequence[str]) -> dict[str, Any]:
    values = [row.value(name) for name in names]
    numbers = [v if isinstance(v, (int, float)) else None for v in values]
    instruction = row.value("instructions.instruction")
    return {
        "id": row.id,
        "text": clean(str(instruction or row.origin.key)),
        "status": decision.verdict,
        "reason": _reason(decision),
        "category": category_of(row) or NONE,
        "values": [[None if v is None else float(f"{v:.6g}") for v in numbers]],
        "codes": ["".join("m" if v is None else "o" for v in numbers)],
        "why": list(_why(row, decision)),
    }


def _why(row: Row, decision: Decision) -> Iterator[str]:
    if decision.verdict != KEEP:
        measured = "" if decision.measured is None else f" ({decision.measured})"
        limit = f"; kept are {decision.limit}" if decision.limit else ""
        yield clean(f"{decision.verdict} after {_reason(decision)}{measured}{limit}")
    if decision.flags:
        yield f"flagged: {', '.join(decision.flags)}"
    if rewritten := row.value("quality.rewritten"):
        yield clean(f"says what happened: {rewritten}")
    editor = row.value("edits.editor")
    if editor:
        yield clean(f"edited by {editor}, seed {row.value('edits.seed')}")


def _blocks(sample: Sample, size: int) -> Iterator[str]:
    for start in range(0, len(sample), BLOCK):
        yield picture_block(_pictures(*one, size) for one in sample[start : start + BLOCK])


def _pictures(row: Row, decision: Decision, size: int) -> dict[str, str]:
    """Small pictures by role; what cannot be read is left out, and the verdict says why."""
    found = {}
    for role, name in (("before", ""), ("after", EDITED)):
        if not name or has_picture(row, name):
            try:
                image = Image.fromarray(decode_picture(row.encoded(name)).rgb)
            except InputError:
                continue
            found[role] = picture_uri(image, size)
    if has_picture(row, MASK):
        try:
            mask = decode_picture(row.encoded(MASK)).rgb[..., 0] > 127
        except InputError:
            return found
        found["mask"] = outline_uri(mask, size)
    return found


def _body(card: Mapping[str, Any], shown: int) -> str:
    """What stands above the rows."""
    whole = [row for row in card["survival"] if not row["category"]]
    parts = [row for row in card["survival"] if row["category"]]
    note = (
        f"{shown:,} of {card['rows']['seen']:,} rows are shown below, some of every verdict, "
        "reason and category. Rows without a category were dropped before they had an instruction."
    )
    warning = (
        f"<p><b>No curated data set:</b> {escape(', '.join(card['stand_ins']))} only stand in.</p>"
        if card["stand_ins"]
        else ""
    )
    more = f"<details><summary>By category</summary>{_table(parts)}</details>" if parts else ""
    survived = f'{_table(whole)}{more}<p class="note">{note}</p>'
    return warning + section("What survived", survived)


def _table(survival: Sequence[Mapping[str, Any]]) -> str:
    heading = ("seen", "kept", "dropped", "failed", "reasons")
    rows = [
        (
            "",
            ", ".join(filter(None, (row["stage"], row["category"]))),
            [
                *(f"<td>{row[key]:,}</td>" for key in heading[:4]),
                f"<td>{escape(_reasons(row['reasons']))}</td>",
            ],
        )
        for row in survival
    ]
    return f'<div class="told">{table(heading, rows)}</div>'


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())
