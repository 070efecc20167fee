"""Pictures in a folder: listed in a JSONL or CSV file, or each with its caption beside it."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from .columns import find_columns, to_row
from .fingerprints import digest
from .rows import PART_ROWS, Part, Row, Skipped, clean

LISTS = (".jsonl", ".csv")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")


class ListReader:
    """Rows of a JSONL or CSV file; pictures by paths relative to its folder.

    Raises InputError: a file that cannot be read, or without the columns needed.
    """

    notes: tuple[str, ...] = ()
    commit = ""

    def __init__(self, path: Path) -> None:
        self.root = path.parent.resolve()
        self._cells = list(read_list(path))
        names = {name for cells in self._cells if isinstance(cells, dict) for name in cells}
        self.columns = find_columns(names, str(path))
        self.edits = self.columns.source is not None
        self.fingerprint = digest("list", path.name, self._cells)
        self.parts = in_parts(path.name, len(self._cells))

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows of a part."""
        for number in numbers_of(part, start, stop):
            id, cells = f"{part.name}:{number}", self._cells[number]
            if isinstance(cells, str):
                yield Skipped(id, "damaged row", cells)
            else:
                yield to_row(self.columns, cells, id, self._picture)

    def _picture(self, cell: Any) -> Path:
        return inside(self.root, cell)


class CaptionReader:
    """Pictures of a folder and its sub-folders, with captions in text files of the same names."""

    edits, notes, commit = False, (), ""

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()
        found = (p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        self.names = sorted(p.relative_to(folder).as_posix() for p in found)
        sizes = [(folder / name).stat().st_size for name in self.names]
        self.fingerprint = digest("captions", self.names, sizes)
        self.parts = in_parts(folder.name, len(self.names))

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows of a part."""
        for number in numbers_of(part, start, stop):
            path = self.root / self.names[number]
            name = clean(self.names[number])
            try:
                caption = path.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                yield Skipped(name, "no instruction or caption", str(error))
                continue
            yield Row(name, "", caption, path) if caption else Skipped(name, "empty caption")


def open_folder(folder: Path) -> ListReader | CaptionReader:
    """The reader of a folder: its one list, or its captions. Raises InputError for neither."""
    lists = sorted(p for p in folder.iterdir() if p.suffix.lower() in LISTS)
    if len(lists) == 1:
        return ListReader(lists[0])
    if lists:
        raise InputError(
            f"{folder} holds several lists ({', '.join(p.name for p in lists)}); name one of them"
        )
    reader = CaptionReader(folder)
    if not any((reader.root / name).with_suffix(".txt").exists() for name in reader.names):
        raise InputError(
            f"{folder} holds no list (.jsonl or .csv), no parquet files and no pictures with "
            "captions in .txt files beside them; add one of these"
        )
    return reader


def in_parts(name: str, rows: int) -> tuple[Part, ...]:
    """Cut a list into parts of PART_ROWS."""
    starts = range(0, rows, PART_ROWS)
    return tuple(Part(name, i, min(PART_ROWS, rows - at)) for i, at in enumerate(starts))


def inside(root: Path, name: Any) -> Path:
    """Path of a file below `root`; InputError for any other, since lists come from strangers."""
    path = below(root, name)
    if not path.is_file():
        raise InputError(f"there is no file {name!r}")
    return path


def below(root: Path, name: Any) -> Path:
    """Path of a name below `root`, whether there is such a file or not; see `inside`."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{name!r} is no path")
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name!r} is no path ({error})") from error
    if Path(name).is_absolute() or not path.is_relative_to(root):
        raise InputError(f"{name!r} leaves the folder; use a path relative to it")
    return path


def numbers_of(part: Part, start: int, stop: int | None) -> range:
    """Numbers in the list of rows start..stop of a part."""
    first = part.index * PART_ROWS
    end = part.rows if stop is None else min(stop, part.rows)
    return range(first + start, first + end)


def read_list(path: Path) -> Iterator[dict[str, Any] | str]:
    """Cells of each row of a JSONL or CSV file, or what is wrong with it. Raises InputError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                yield from _csv_cells(file)
            else:
                yield from (_cells(line) for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}); give a UTF-8 text file") from error


def _csv_cells(file: TextIO) -> Iterator[dict[str, Any] | str]:
    rows = csv.DictReader(file)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"no CSV ({error})"
        else:
            yield "more cells than columns" if None in cells else cells


def _cells(line: str) -> dict[str, Any] | str:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    return cells if isinstance(cells, dict) else f"no JSON object, but {type(cells).__name__}"
