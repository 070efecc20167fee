"""The data card as a README in the style of the Hugging Face Hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...pages.markdown import markdown
from .card import is_curated
from .columns import NEGATIVES, PAIRS, PREFERENCES
from .shards import DATA

_WHAT = {
    PAIRS: "pairs", NEGATIVES: "failed edits, for preference training",
    PREFERENCES: "pairs, each with an edit that the judge liked less, for preference training",
}  # fmt: skip
_HUB_LICENCES = (
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
)  # fmt: skip
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
_MOST_REASONS = 4


def readme(card: Mapping[str, Any], name: str) -> str:
    """The whole card. name: of the data set."""
    return "\n\n".join([_head(card, name), *_sections(card, name)]) + "\n"


def _head(card: Mapping[str, Any], name: str) -> str:
    """YAML, each value written as JSON, which YAML contains."""
    licences = {entry["licence"].lower() for entry in card["licences"]}
    (only,) = licences if len(licences) == 1 else (None,)
    if only in _HUB_LICENCES:
        said = {"license": only}
    else:
        said = {"license": "other", "license_name": "mixed", "license_link": "README.md"}
    total = card["rows"]["exported"] + card["rows"]["reversed"]
    tags = ["image-editing", *([] if is_curated(card) else ["stand-in"])]
    values = {
        **said,
        "pretty_name": name,
        "task_categories": ["image-to-image"],
        "tags": tags,
        "size_categories": [_SIZE_NAMES[sum(total >= limit for limit in _SIZES)]],
        "configs": [
            {
                "config_name": "default" if card["kind"] == PAIRS else card["kind"],
                "data_files": [{"split": "train", "path": f"{DATA}/*.parquet"}],
            }
        ],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "\n".join(["---", *lines, "---"])


def _sections(card: Mapping[str, Any], name: str) -> Iterator[str]:
    yield f"# {_text(name)}"
    yield _summary(card)
    yield "![Some of the rows](sheet.png)"
    yield "## Rows\n\n" + _categories(card)
    yield "## What survived\n\n" + _survival(card)
    yield "## What decided\n\n" + _rules(card)
    yield "## Who made it\n\n" + _makers(card)
    yield "## Licences and duties\n\n" + _licences(card)
    yield "## What was measured\n\n" + _measured(card)
    yield "## Columns\n\n" + _columns(card)
    yield "## Reading it\n\n" + _reading(card)


def _summary(card: Mapping[str, Any]) -> str:
    rows = card["rows"]
    what = _WHAT[card["kind"]]
    more = f" and {rows['reversed']:,} reversed ones" if rows["reversed"] else ""
    counted = f"{rows['exported']:,} {what}{more} from {rows['pictures']:,} pictures"
    if is_curated(card):
        first = f"{counted}, by {card['made_by']}."
    else:
        first = (
            f"**This is no curated data set.** {counted}, by {card['made_by']}, with stand-ins "
            f"where models belong: {', '.join(card['stand_ins'])}."
        )
    allowed = ", ".join(card["allow"]) or "nothing in particular"
    return f"{first} The terms of every row, of its picture and of its edit, allow: {allowed}."


def _categories(card: Mapping[str, Any]) -> str:
    found = card["categories"]
    lines = [(_text(name), *_whole(row["rows"], row["reversed"])) for name, row in found.items()]
    totals = ("all", *_whole(card["rows"]["exported"], card["rows"]["reversed"]))
    parts = [markdown(("type", "rows", "reversed"), [*lines, totals])]
    if card["rows"]["reversed"]:
        parts.append(
            "A reversed row swaps the pictures of another (`reversed_of`): what was added is to be "
            "removed, and the other way round. It was not judged again, so that scores that have a "
            "direction are empty there."
        )
    if card["left_out"]:
        reasons = [(_text(reason), f"{n:,}") for reason, n in card["left_out"].items()]
        parts.append("Not exported:\n\n" + markdown(("reason", "rows"), reasons))
    return "\n\n".join(parts)


def _survival(card: Mapping[str, Any]) -> str:
    lines = []
    for row in card["survival"]:
        reasons = [f"{_text(k)} {n:,}" for k, n in row["reasons"].items()]
        more = ["..."] if len(reasons) > _MOST_REASONS else []
        lines.append(
            (
                row["stage"]
                if not row["category"]
                else f"{row['stage']}, {_text(row['category'])}",
                *_whole(row["seen"], row["kept"], row["dropped"], row["failed"]),
                ", ".join(reasons[:_MOST_REASONS] + more),
            )
        )
    heading = ("stage", "seen", "kept", "dropped", "failed", "reasons")
    note = (
        "A picture becomes a row for each of its instructions. `card.json` holds all reasons; "
        "`rows.html` shows rows of every verdict, reason and type."
    )
    return f"{markdown(heading, lines, (0, 5))}\n\n{note}"


def _rules(card: Mapping[str, Any]) -> str:
    copies = card["duplicates"]
    mirrored = ", mirrored or not" if copies["mirrored"] else ""
    lines = [f"- `{rule}`" for rule in card["rules"]]
    lines.append(
        f"- copies: equal pixels, or perceptual hashes that differ in at most "
        f"{copies['distance']} of 64 bits{mirrored}"
    )
    return "\n".join(lines)


def _makers(card: Mapping[str, Any]) -> str:
    lines = [
        (
            f"{maker['role'][:-1]} {_text(maker['name'])}",
            "-" if maker["rows"] is None else f"{maker['rows']:,}",
            _text(", ".join(f"{k} {_plain(v)}" for k, v in maker["settings"].items())) or "-",
            _text(", ".join(maker["revisions"])) or "-",
            "yes" if maker["stand_in"] else "",
        )
        for maker in card["makers"]
    ]
    if not lines:
        return "No model had a hand in it."
    table = markdown(("who", "rows", "is", "revision", "stand-in"), lines, (0, 2, 3, 4))
    if is_curated(card):
        return table
    return (
        f"{table}\n\nA stand-in shows that the pipeline runs. What it writes, edits or judges is "
        "no measure of anything."
    )


def _licences(card: Mapping[str, Any]) -> str:
    lines = [
        (
            f"{entry['of']} {_text(entry['name'])}",
            _text(entry["licence"])
            if not entry["link"]
            else f"[{_text(entry['licence'])}]({entry['link']})",
            f"{entry['rows']:,}",
            ", ".join(entry["uses"]),
            ", ".join(entry["duties"]) or "-",
            _text(entry["note"]) or "-",
        )
        for entry in card["licences"]
    ]
    table = markdown(("of", "licence", "rows", "allows", "duties", "note"), lines, (0, 1, 3, 4, 5))
    return (
        f"{table}\n\nThis is a reading of the terms and no legal advice. Attribution is owed to "
        "`author` at `url`, where sources state them. To have a picture removed, name its "
        "`source_sha256` or `source_id` to whoever published this data set."
    )


def _measured(card: Mapping[str, Any]) -> str:
    lines = [
        (name, f"{v['rows']:,}", *(f"{v[key]:.4g}" for key in ("least", "mean", "most")))
        for name, v in card["measured"].items()
    ]
    parts = [markdown(("value", "rows", "least", "mean", "most"), lines)] if lines else []
    if card["unscored"]:
        missing = ", ".join(f"`{name}` {n:,}" for name, n in card["unscored"].items())
        parts.append(f"Under a condition, but computed by nobody, in so many rows: {missing}.")
    return "\n\n".join(parts) or "Nothing."


def _columns(card: Mapping[str, Any]) -> str:
    lines = [(f"`{c['name']}`", c["kind"], c["meaning"]) for c in card["columns"]]
    note = "The first four have CrispEdit-2M's names, types and order."
    if card["kind"] == NEGATIVES:
        note = "`rejected_img` stands where pairs have their target; no reader takes it for one."
    if card["kind"] == PREFERENCES:
        note += " `rejected_img` is the worse of two edits, and never a target."
    return f"{note}\n\n" + markdown(("column", "kind", "is"), lines, (0, 1, 2))


def _reading(card: Mapping[str, Any]) -> str:
    lines = ["from datasets import load_dataset", 'rows = load_dataset("parquet", data_files="'
             f'{DATA}/*.parquet", split="train")']  # fmt: skip
    code = "```python\n" + "\n".join(lines) + "\n```"
    own = "" if card["kind"] == NEGATIVES else "\n\n```bash\neditmgt cache . --out ../cache\n```"
    return (
        f"{code}{own}\n\n`manifest.json` was written last and holds rows and SHA-256 of every "
        "file: a folder without it is incomplete."
    )


def _whole(*numbers: int) -> Sequence[str]:
    return [f"{number:,}" for number in numbers]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    """Text of others in a table: no new cell, no new line, no markup."""
    line = " ".join(text.split())
    for sign in "\\|`<>[]*_":
        line = line.replace(sign, f"\\{sign}")
    return line
