"""Parquet files of about one size, each written at once and found again by a later run."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import InputError
from ...files import atomic_path, file_digest
from .columns import (
    IMAGE,
    INPUT,
    MASK,
    NEGATIVES,
    OUTPUT,
    PREFERENCES,
    REJECTED,
    columns,
    schema,
)
from .pictures import EDITED, OTHER, Fingerprints, expected_bytes, original_of
from .pictures import MASK as MASK_PICTURE
from .selection import Pair, has_picture

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DATA = "data"
GROUP_ROWS = 100
GROUP_BYTES = 1 << 30  # less than the 2 GiB that a column of bytes may hold
SHARD_ROWS = 5000  # at most, so that what is held until a file is full stays small
PAGE_ROWS = 8  # pictures of a page, which readers hold whole
FOOTER = b"editmgt"


@dataclass(frozen=True)
class File:
    """A finished file. plan: digest of what it holds, known before it is written."""

    name: str
    rows: int
    size: int
    sha256: str
    plan: str


@dataclass
class _Open:
    """Pairs that wait for their file."""

    pairs: list[Pair] = field(default_factory=list)
    prints: list[Any] = field(default_factory=list)
    size: int = 0


class ShardWriter:
    """Distributes pairs over files `data/<type>_NNNNN.parquet`, by type, in their order.

    size: of a file in bytes, about. kind: as of `columns`. earlier: files of an earlier run by
    name, with their digests. A file that already holds the same rows stays as it is.
    """

    def __init__(self, folder: Path, size: int, kind: str, earlier: Mapping[str, File]) -> None:
        self._folder, self._size, self._kind = folder, size, kind
        self._earlier, self._prints = earlier, Fingerprints()
        self._open: dict[str, _Open] = {}
        self._counts: dict[str, int] = {}
        self.files: list[File] = []

    def add(self, pair: Pair) -> None:
        """Add a pair, and write a file if one is full. Raises InputError."""
        name = _file_name(pair.cells["type"])
        waiting = self._open.setdefault(name, _Open())
        made = _pictures(self._kind).values()
        prints = [self._prints.of(pair.row, picture) for picture in made]
        waiting.pairs.append(pair)
        waiting.prints.append(prints)
        waiting.size += expected_bytes(pair.row) + sum(p[1] for p in prints if p)
        if waiting.size >= self._size or len(waiting.pairs) == SHARD_ROWS:
            self._write(name)

    def close(self) -> None:
        """Write what is left, and remove files that belong to no row any more."""
        for name in sorted(self._open):
            self._write(name)
        self.files.sort(key=lambda file: file.name)
        mine = {file.name for file in self.files}
        for path in (self._folder / DATA).glob("*.parquet"):
            if f"{DATA}/{path.name}" not in mine:
                path.unlink()

    def _write(self, type_name: str) -> None:
        waiting = self._open.pop(type_name)
        number = self._counts[type_name] = self._counts.get(type_name, -1) + 1
        name = f"{DATA}/{type_name}_{number:05d}.parquet"
        path, plan = self._folder / name, _plan(waiting, self._kind)
        if not self._is_there(path, name, plan):
            with atomic_path(path) as temporary:
                write_pairs(temporary, waiting.pairs, plan, self._kind)
        size, digest = path.stat().st_size, file_digest(path)
        self.files.append(File(name, len(waiting.pairs), size, digest, plan))

    def _is_there(self, path: Path, name: str, plan: str) -> bool:
        if not path.is_file() or _plan_in(path) != plan:
            return False
        known = self._earlier.get(name)
        return known is None or known.plan != plan or known.sha256 == file_digest(path)


def _file_name(kind: str) -> str:
    return "".join(c if c.isalnum() or c in " -_" else "_" for c in kind) or "edit"


def _plan(waiting: _Open, kind: str) -> str:
    """Digest of all that decides a file's content."""
    digest = hashlib.sha256(f"{__version__} {kind}".encode())
    for pair, prints in zip(waiting.pairs, waiting.prints, strict=True):
        digest.update(json.dumps([pair.cells, prints, pair.swapped], sort_keys=True).encode())
    return digest.hexdigest()


def _plan_in(path: Path) -> str:
    """The digest in a file's footer; "" if it is none of ours or cut off."""
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(FOOTER, b"").decode()
    except Exception:  # pyarrow raises many kinds for a damaged footer
        return ""


def write_pairs(path: Path, pairs: Sequence[Pair], plan: str, kind: str) -> None:
    """Write a parquet file of at most GROUP_ROWS rows a group. Raises InputError."""
    import pyarrow as pa

    layout = schema(kind)
    layout = layout.with_metadata({**(layout.metadata or {}), FOOTER: plan.encode()})
    with _writer(path, layout, kind) as writer:
        for rows in _groups(pairs, kind):
            writer.write_table(pa.Table.from_pylist(rows, layout), row_group_size=GROUP_ROWS)


def _writer(path: Path, layout: Any, kind: str) -> "pq.ParquetWriter":
    """Pictures are neither compressed again nor given statistics: both would only cost space."""
    import pyarrow.parquet as pq

    pictures = {f"{c.name}.bytes" for c in columns(kind) if c.kind == IMAGE}
    leaves = [pq_name for pq_name in _leaves(layout) if pq_name not in pictures]
    return pq.ParquetWriter(
        path,
        layout,
        compression={name: "NONE" if name in pictures else "SNAPPY" for name in _leaves(layout)},
        use_dictionary=leaves,
        write_statistics=leaves,
        write_batch_size=PAGE_ROWS,
    )


def _leaves(layout: Any) -> list[str]:
    """Dotted names of the columns as parquet stores them."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(layout.empty_table(), buffer)
    stored = pq.ParquetFile(pa.BufferReader(buffer.getvalue())).schema
    return [stored.column(number).path for number in range(len(stored))]


def _groups(pairs: Sequence[Pair], kind: str) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for pair in pairs:
        row = _row(pair, kind)
        size += sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict))
        rows.append(row)
        if len(rows) == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(pair: Pair, kind: str) -> dict[str, Any]:
    made = {column: pair.row.encoded(name) for column, name in _pictures(kind).items()
            if has_picture(pair.row, name)}  # fmt: skip
    pictures = {INPUT: original_of(pair.row), **made}
    if pair.swapped:
        pictures |= {INPUT: pictures[OUTPUT], OUTPUT: pictures[INPUT]}
    cells = {name: {"bytes": data, "path": None} for name, data in pictures.items()}
    return {**dict(pair.cells), **cells}


def _pictures(kind: str) -> dict[str, str]:
    """Pictures "stage.name" by the column they go into."""
    if kind == NEGATIVES:
        return {REJECTED: EDITED, MASK: MASK_PICTURE}
    lost = {REJECTED: OTHER} if kind == PREFERENCES else {}
    return {OUTPUT: EDITED, MASK: MASK_PICTURE, **lost}


def read_files(manifest: Mapping[str, Any]) -> dict[str, File]:
    """Files of an export's manifest by name. Raises InputError."""
    try:
        return {entry["name"]: File(**entry) for entry in manifest["files"]}
    except (LookupError, TypeError) as error:
        raise InputError(f"the manifest is not one of an export ({error})") from error
