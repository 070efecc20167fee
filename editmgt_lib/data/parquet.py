"""Parquet files in CrispEdit-2M's layout, never more than a row group in memory.

Columns `input_img` and `output_img` {bytes, path}, `instruction` and `type`, and any others to
their right; files `<type>_NNNNN.parquet`, up to 1.2 GB, with names that hold spaces.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, first_line
from .columns import Columns, find_columns, to_row
from .fingerprints import digest
from .rows import PART_ROWS, Part, Row, Skipped

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH_ROWS = 8  # decoded at a time; two pictures of a row take 2 MB
BUFFER = 1 << 20  # bytes read ahead per column, in place of a whole row group
_NUMBERED = re.compile(r"(.+)_(\d{5})")


class ParquetReader:
    """Rows of parquet files on this machine. Raises InputError naming files that are damaged."""

    commit = ""

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        names = [path.relative_to(root).as_posix() for path in files]
        self._files = dict(zip(names, files, strict=True))
        layouts = {name: _layout(path, name) for name, path in self._files.items()}
        groups = {name: rows for name, (rows, _) in layouts.items()}
        self._groups = {name: in_runs(rows) for name, rows in groups.items()}
        self.parts = tuple(
            Part(name, i, sum(groups[name][k] for k in run))
            for name in names
            for i, run in enumerate(self._groups[name])
        )
        self.edits = layouts[names[0]][1].source is not None
        for name, (_, columns) in layouts.items():
            if (columns.source is not None) != self.edits:
                raise InputError(
                    f"{names[0]} and {name} differ: one holds pairs, the other captioned pictures; "
                    "read them as two data sets"
                )
        sizes = [path.stat().st_size for path in files]
        self.fingerprint = digest("parquet", names, sizes, groups)
        self.notes = gaps(names)

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows of a part."""
        groups = self._groups[part.name]
        with opened(self._files[part.name]) as file:
            before = sum(_rows(file, k) for run in groups[: part.index] for k in run)
            yield from read_groups(file, part.name, groups[part.index], before, start, stop)


def find_parquet(folder: Path) -> list[Path]:
    """All parquet files below a folder, by name."""
    return sorted(p for p in folder.rglob("*.parquet") if p.is_file())


def _layout(path: Path, name: str) -> tuple[list[int], Columns]:
    """Rows of each row group, and the columns."""
    with opened(path) as file:
        rows = [_rows(file, k) for k in range(file.metadata.num_row_groups)]
        return rows, _columns(file, name)


def in_runs(rows: Sequence[int]) -> list[range]:
    """Gather consecutive row groups into runs of about PART_ROWS rows."""
    runs, first, total = [], 0, 0
    for k, count in enumerate(rows):
        total += count
        if total >= PART_ROWS or k == len(rows) - 1:
            runs.append(range(first, k + 1))
            first, total = k + 1, 0
    return runs


def read_groups(
    file: "pq.ParquetFile", name: str, groups: range, before: int, start: int, stop: int | None
) -> Iterator[Row | Skipped]:
    """Rows start..stop of a run of row groups.

    before: rows of the file ahead of them; a row's id is its number in the file.
    """
    columns, at = _columns(file, name), 0
    for group in groups:
        count = _rows(file, group)
        low, high = max(0, start - at), count if stop is None else min(count, stop - at)
        if low < high:
            for row, cells in enumerate(_cells(file, group, columns, low, high), low):
                id = f"{name}:{before + at + row}"
                damaged = isinstance(cells, str)
                yield (
                    Skipped(id, "damaged row", cells)
                    if damaged
                    else to_row(columns, cells, id, cell_bytes)
                )
        at += count


def gaps(names: Sequence[str]) -> tuple[str, ...]:
    """Say which numbers are missing among files `<type>_NNNNN.parquet`."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(Path(name).stem):
            numbers.setdefault(found[1], []).append(int(found[2]))
    missing = {
        kind: sorted(set(range(min(known), max(known))) - set(known))
        for kind, known in numbers.items()
    }
    return tuple(
        f"{kind}: {len(lost)} files missing within the numbering, the first {kind}_{lost[0]:05d}"
        for kind, lost in missing.items()
        if lost
    )


def _cells(
    file: "pq.ParquetFile", group: int, columns: Columns, low: int, high: int
) -> Iterator[dict[str, Any] | str]:
    """Cells of rows low..high of a row group, or why they cannot be read."""
    done = 0
    try:
        batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns.names)
        for batch in batches:
            for row in range(max(0, low - done), min(batch.num_rows, high - done)):
                yield _row_cells(batch, row)
            done += batch.num_rows
            if done >= high:
                return
    except Exception as error:  # pyarrow raises many kinds for damaged pages
        for _ in range(max(low, done), high):
            yield first_line(error)


def _row_cells(batch: Any, row: int) -> dict[str, Any] | str:
    try:
        return {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except Exception as error:  # text that is no UTF-8
        return first_line(error)


def cell_bytes(cell: Any) -> bytes:
    """Content of an Image cell, a struct of bytes and path, or of a binary one. InputError."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise InputError("the cell holds no bytes")
    return data


def _columns(file: "pq.ParquetFile", name: str) -> Columns:
    return find_columns(file.schema_arrow.names, name)


def _rows(file: "pq.ParquetFile", group: int) -> int:
    return file.metadata.row_group(group).num_rows


@contextmanager
def opened(path: Path) -> Iterator["pq.ParquetFile"]:
    """Open a parquet file. Raises InputError if it is damaged or pyarrow is missing."""
    pq = pyarrow_parquet()
    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except Exception as error:  # pyarrow raises many kinds for a damaged footer
        raise InputError(
            f"cannot read {path} as parquet ({first_line(error)}); fetch it again, or "
            "take it out of the folder"
        ) from error
    with file:
        yield file


def pyarrow_parquet() -> Any:
    """Import pyarrow.parquet. Raises InputError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "reading parquet and arrow needs pyarrow; install it with "
            "`pip install 'editmgt[train]'` (or `[eval]`, `[curate]`)"
        ) from error
    return pyarrow.parquet
