"""Which rows are exported, and the cells they become. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...data.rows import clean
from ..decide import Decision
from ..pairs import is_negative, less_liked, reversed_instruction
from ..rows import KEEP, Row
from ..terms import USES, Terms, allowed
from .columns import COLUMNS, DIRECTED, FLAG, IMAGE, NUMBER, TEXT, WHOLE, Column
from .pictures import EDITED, size_of

_SWAPPED = {"caption": "target_caption", "target_caption": "caption"}
_NEGATED = ("shift_x", "shift_y")


@dataclass(frozen=True, repr=False)
class Pair:
    """One row of an export.

    Attributes:
        row: what its pictures are read from. swapped: before and after change places.
        cells: of all columns but those of pictures, by name.
        lost: terms of the edit that was liked less, in preferences.
    """

    row: Row
    cells: Mapping[str, Any]
    swapped: bool = False
    lost: Terms | None = None


def why_not(row: Row, decision: Decision, last: str, uses: Sequence[str]) -> str:
    """Why a row that was kept is not exported; "" if it is.

    last: stage that must have looked at it. uses: what the terms must allow.
    """
    if decision.reached != last:
        return f"not yet seen by {last}"
    return _unfit(row, uses)


def why_no_negative(row: Row, decision: Decision, uses: Sequence[str]) -> str:
    """Why a row that was not kept is no negative either; "" if it is one."""
    if not is_negative(decision, row):
        return f"{decision.stage}: {decision.reason}"
    return _unfit(row, uses)


def why_no_preference(row: Row, decision: Decision, last: str, uses: Sequence[str]) -> str:
    """Why a row that was kept says of no other edit that it is worse; "" if it does."""
    if reason := why_not(row, decision, last, uses):
        return reason
    lost = less_liked(row)
    if lost is None:
        return "no edit that the judge liked less"
    return _forbidden("other editor", loser_terms(lost), uses)


def _unfit(row: Row, uses: Sequence[str]) -> str:
    if not has_picture(row, EDITED):
        return "no edited picture"
    return _forbidden("source", source_terms(row), uses) or _forbidden(
        "editor", editor_terms(row), uses
    )


def _forbidden(who: str, terms: Terms, uses: Sequence[str]) -> str:
    return "" if allowed(tuple(uses), terms) else f"terms of the {who}: {clean(terms.licence)}"


def has_picture(row: Row, name: str) -> bool:
    """Whether a row has the picture "stage.name"."""
    stage, _, key = name.partition(".")
    return stage in row.found and key in row.found[stage].pictures


def source_terms(row: Row) -> Terms:
    """Terms of the row's picture."""
    return Terms(row.origin.licence, row.origin.uses)


def editor_terms(row: Row) -> Terms:
    """Terms of the row's edit; none are assumed."""
    uses = row.value("edits.editor_uses") or ()
    return Terms(row.value("edits.editor_licence") or "unknown", tuple(uses))


def loser_terms(candidate: Mapping[str, Any]) -> Terms:
    """Terms of a candidate's result; none are assumed."""
    return Terms(candidate.get("licence") or "unknown", tuple(candidate.get("uses") or ()))


def category_of(row: Row) -> str:
    """Kind of edit; "" before there is an instruction."""
    return str(row.value("instructions.category") or "")


def pair_of(row: Row, decision: Decision) -> Pair:
    """The pair of a row, or the negative of one that was not kept."""
    kept = decision.verdict == KEEP
    written = row.value("instructions.instruction")
    rewritten = row.value("quality.rewritten") if kept else ""
    width, height = size_of(row)
    terms = source_terms(row), editor_terms(row)
    cells = {
        **{c.name: _cell(c, row.value(c.value)) for c in COLUMNS if c.value},
        "instruction": clean(str(rewritten or written)),
        "type": clean(category_of(row)),
        "id": row.id,
        "reversed_of": None,
        "negative": not kept,
        "reason": None if kept else f"{decision.stage}: {decision.reason}",
        "caption": _text(row.value("instructions.caption")),
        "target_caption": _text(row.value("instructions.target_caption")),
        "width": width,
        "height": height,
        "scores": json.dumps(_numbers(row), separators=(",", ":")),
        "flags": list(decision.flags),
        "unscored": list(decision.unscored),
        "source": row.origin.source,
        "source_id": clean(row.origin.key),
        "source_licence": clean(row.origin.licence),
        "uses": [use for use in USES if allowed((use,), *terms)],
        "author": clean(row.origin.author) or None,
        "url": clean(row.origin.url) or None,
    }
    return Pair(row, cells)


def preference_of(pair: Pair) -> Pair:
    """The pair with the edit that its judge liked less; see `why_no_preference`."""
    lost = less_liked(pair.row) or {}
    terms = loser_terms(lost)
    cells = {
        "rejected_editor": lost.get("editor"),
        "rejected_revision": lost.get("revision"),
        "rejected_seed": lost.get("seed"),
        "rejected_licence": clean(terms.licence),
        "uses": [use for use in pair.cells["uses"] if allowed((use,), terms)],
    }
    return replace(pair, cells={**pair.cells, **cells}, lost=terms)


def reversed_pair(pair: Pair) -> Pair | None:
    """The same pictures the other way round (remove and add); None for other kinds of edit."""
    cells = pair.cells
    turned = reversed_instruction(cells["type"], cells["instruction"], cells["object"] or "")
    if turned is None:
        return None
    category, instruction = turned
    zoom = cells["zoom"]
    return replace(
        pair,
        swapped=True,
        cells={
            **cells,
            **dict.fromkeys(DIRECTED),
            **{mine: cells[theirs] for mine, theirs in _SWAPPED.items()},
            **{name: None if cells[name] is None else -cells[name] for name in _NEGATED},
            "zoom": 1 / zoom if zoom else zoom,
            "instruction": clean(instruction),
            "type": category,
            "id": f"{cells['id']}.reversed",
            "reversed_of": cells["id"],
        },
    )


def _cell(column: Column, value: Any) -> Any:
    if value is None or column.kind == IMAGE:
        return None
    if column.kind == TEXT:
        return _text(value)
    numeric = isinstance(value, (int, float))
    convert = {NUMBER: float, WHOLE: int, FLAG: bool}[column.kind]
    return convert(value) if numeric else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return clean(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def _numbers(row: Row) -> dict[str, dict[str, float]]:
    """Numbers by stage and name."""
    found = {stage: dict(numbers_of(row, stage)) for stage in row.found}
    return {stage: numbers for stage, numbers in found.items() if numbers}


def numbers_of(row: Row, stage: str) -> Iterator[tuple[str, float]]:
    """Numbers that a stage found about a row."""
    for name, value in row.found[stage].values.items():
        if isinstance(value, (int, float)):
            yield name, value
