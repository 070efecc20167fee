"""Pictures in parquet files, read in order, a few rows in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.columns import PICTURE, SOURCE
from ..data.parquet import BATCH_ROWS, cell_bytes, opened
from ..errors import InputError, first_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def read_cell(path: Path, number: int) -> bytes:
    """Encoded picture of one row. Raises InputError."""
    data = next(read_cells(path, [number]))
    if isinstance(data, InputError):
        raise data
    return data


def read_cells(path: Path, numbers: Sequence[int]) -> Iterator[bytes | InputError]:
    """Encoded pictures of rows, whose numbers in the file ascend; an error for each without one.

    Raises InputError if the file as a whole cannot be read.
    """
    with opened(path) as file:
        names = file.schema_arrow.names
        column = next((name for name in (*PICTURE, *SOURCE) if name in names), None)
        if column is None:
            raise InputError(f"{path} has no column for the picture")
        for group, wanted in groupby(_located(file, numbers), key=lambda located: located[0]):
            yield from _of_group(file, path, column, group, [row for _, row in wanted])


def read_plain_columns(
    file: "pq.ParquetFile", columns: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Cells of all rows in some columns; with none, an empty mapping for each row."""
    if not columns:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(1024, columns=list(columns)):
        yield from batch.to_pylist()


def _located(file: "pq.ParquetFile", numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Row group of each row, and its number within."""
    group, before = 0, 0
    groups = file.metadata.num_row_groups
    for number in numbers:
        while group < groups and number >= before + file.metadata.row_group(group).num_rows:
            before += file.metadata.row_group(group).num_rows
            group += 1
        if group == groups or number < before:
            raise InputError(f"the parquet file has no row {number} any more")
        yield group, number - before


def _of_group(
    file: "pq.ParquetFile", path: Path, column: str, group: int, rows: Sequence[int]
) -> Iterator[bytes | InputError]:
    left, done = list(rows), 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
            while left and left[0] < done + batch.num_rows:
                yield _content(batch.column(0)[left.pop(0) - done].as_py())
            done += batch.num_rows
            if not left:
                return
    except Exception as error:  # pyarrow raises many kinds for damaged pages
        said = InputError(f"cannot read {path} ({first_line(error)})")
        yield from (said for _ in left)


def _content(cell: Any) -> bytes | InputError:
    try:
        return cell_bytes(cell)
    except InputError as error:
        return error
