"""Rows of parquet and arrow shards as the hub lays them out, a few at a time."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.parquet import BATCH_ROWS, opened, pyarrow_parquet
from ...errors import InputError
from .reading import damaged

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<hash>-[0-9a-f]+)?")
_FOLDERS = ("", "data", "train")  # a snapshot of a repository, and what `save_to_disk` writes


@dataclass(frozen=True)
class Table:
    """One split: its shards in order, and the columns they all have."""

    shards: tuple[Path, ...]
    columns: frozenset[str]

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read these columns, row by row. Raises InputError for a missing one or a damaged file."""
        if missing := [name for name in columns if name not in self.columns]:
            raise InputError(
                f"{self.shards[0]} has no column {', '.join(missing)} among "
                f"{', '.join(sorted(self.columns))}; is it another data set?"
            )
        for path in self.shards:
            yield from _rows(path, columns)


def find_table(folder: Path, rows: int | None, name: str, stale: Collection[str] = ()) -> Table:
    """Find the split that has so many rows, whatever it is called.

    rows: None for the only split there is.
    stale: endings of shards that the authors replaced and some revisions still hold.
    Raises InputError with the counts found if there is no such split.
    """
    splits = _splits(folder, stale)
    if not splits:
        raise InputError(f"{folder} holds no parquet or arrow files of {name}; give its folder")
    found = {split: sum(map(_count, shards)) for split, shards in splits.items()}
    fitting = [split for split, count in found.items() if rows in (None, count)]
    chosen = fitting[0] if fitting and (rows or len(found) == 1) else None
    flaws = {split: _flaw(shards) for split, shards in splits.items()}
    if chosen is None or flaws[chosen]:
        listed = "; ".join(f"{s} {n:,}{flaws[s] and f' ({flaws[s]})'}" for s, n in found.items())
        raise InputError(
            f"{name} has {f'{rows:,} rows' if rows else 'one split'}, and {folder} holds rows "
            f"{listed}; fetch all shards of one revision"
        )
    shards = tuple(splits[chosen])
    return Table(shards, frozenset.intersection(*(frozenset(_names(path)) for path in shards)))


def _splits(folder: Path, stale: Collection[str]) -> dict[str, list[Path]]:
    for place in _FOLDERS:
        found = [
            path
            for path in sorted((folder / place).glob("*"))
            if path.suffix in (".parquet", ".arrow") and not path.stem.endswith(tuple(stale))
        ]
        if found:
            splits: dict[str, list[Path]] = {}
            for path in found:
                shard = _SHARD.fullmatch(path.stem)
                splits.setdefault(shard["split"] if shard else path.stem, []).append(path)
            return splits
    return {}


def _flaw(shards: Sequence[Path]) -> str:
    """What is wrong with the numbers of shards; empty if nothing."""
    numbered = [shard for path in shards if (shard := _SHARD.fullmatch(path.stem))]
    if not numbered:
        return ""
    if len(totals := sorted({int(shard["total"]) for shard in numbered})) > 1:
        return f"shards of {' and of '.join(map(str, totals))}"
    numbers = [int(shard["number"]) for shard in numbered]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(range(totals[0])) - set(numbers))
    parts = [f"two files for shard {number}" for number in twice]
    return ", ".join(parts + [f"shard {number} of {totals[0]} is missing" for number in missing])


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        with opened(path) as file:
            return file.metadata.num_rows
    with _arrow(path) as (_, batches):
        return sum(batch.num_rows for batch in batches)


def _names(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        with opened(path) as file:
            return file.schema_arrow.names
    with _arrow(path) as (names, _):
        return names


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        with opened(path) as file:
            yield from _cells(file.iter_batches(BATCH_ROWS, columns=list(columns)), path)
    else:
        with _arrow(path) as (_, batches):
            yield from _cells((batch.select(list(columns)) for batch in batches), path)


def _cells(batches: Iterator[Any], path: Path) -> Iterator[dict[str, Any]]:
    done = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                rows = batch.slice(start, BATCH_ROWS).to_pylist()
                yield from rows
                done += len(rows)
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow raises many kinds for damaged pages
        raise damaged(path, f"after row {done:,}: {error}") from error


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[list[str], Iterator[Any]]]:
    """The columns and record batches of an arrow file, mapped.

    It may be a stream, as `datasets` writes, or for random access.

    Raises InputError for any other file.
    """
    pyarrow_parquet()
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            if source.read_at(6, 0) == b"ARROW1":
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(k) for k in range(file.num_record_batches))
            else:
                file = pa.ipc.open_stream(source)
                batches = iter(file)
        except Exception as error:
            raise damaged(path, error) from error
        yield file.schema.names, batches
