"""Column names in use, and rows made of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .rows import Encoded, Row, Skipped, clean

# In order of preference. Some data sets call the picture before the edit just "image".
PROMPT = ("instruction", "edit_instruction", "caption", "prompt", "text")
TARGET = (
    *("output_img", "output", "output_image", "target", "target_image"),
    *("generated_image", "edited_image", "edited_file"),
)
SOURCE = ("input_img", "input", "input_image", "source", "source_image", "image_file", "image")
PICTURE = ("image", "img", "image_file", "file_name", "picture", "jpg", "png")
KIND = ("type", "kind", "category", "edit_type", "task")
ID = ("id", "key", "uid")

LONGEST_PROMPT = 10_000  # characters


@dataclass(frozen=True)
class Columns:
    """Which column of a data set holds what; None where none does.

    `source` is None for captioned pictures.
    """

    prompt: str
    target: str
    source: str | None
    kind: str | None
    id: str | None

    @property
    def names(self) -> list[str]:
        """Those that are read."""
        return [n for n in (self.prompt, self.target, self.source, self.kind, self.id) if n]


def find_columns(names: Iterable[str], where: str) -> Columns:
    """Find the columns by the names in use. Raises InputError naming those that are missing."""
    names = set(names)

    def first(options: tuple[str, ...]) -> str | None:
        return next((name for name in options if name in names), None)

    prompt, target, source = first(PROMPT), first(TARGET), first(SOURCE)
    if target is None:  # captioned pictures
        target, source = first(PICTURE), None
    elif source is None:
        _missing(where, names, "the picture before the edit", SOURCE)
    if target is None:
        _missing(where, names, "the picture", (*TARGET, *PICTURE))
    if prompt is None:
        _missing(where, names, "the instruction or caption", PROMPT)
    return Columns(prompt, target, source, first(KIND), first(ID))


def _missing(where: str, names: set[str], what: str, options: tuple[str, ...]) -> None:
    raise InputError(
        f"{where} has no column for {what} among {', '.join(sorted(names)) or 'none'}; "
        f"name it one of {', '.join(options)}"
    )


def to_row(
    columns: Columns,
    cells: Mapping[str, Any],
    id: str,
    picture: Callable[[Any], Encoded],
) -> Row | Skipped:
    """Make a row of cells.

    picture: makes a picture of its cell; its InputError skips the row.
    """
    own = cells.get(columns.id) if columns.id else None
    id = clean(str(own)) if own not in (None, "") else id
    prompt = cells.get(columns.prompt)
    if not isinstance(prompt, str) or not prompt.strip():
        return Skipped(id, "no instruction or caption", repr(prompt)[:80])
    if len(prompt) > LONGEST_PROMPT or any("\ud800" <= c <= "\udfff" for c in prompt):
        return Skipped(id, "instruction is not usable text", repr(prompt[:80]))
    kind = cells.get(columns.kind) if columns.kind else None
    pictures = []
    for name in (columns.target, columns.source):
        try:
            pictures.append(picture(cells.get(name)) if name else None)
        except InputError as error:
            return Skipped(id, "picture is missing", f"{name}: {error}")
    return Row(id, clean(str(kind or "")), prompt.strip(), *pictures)
