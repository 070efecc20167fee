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
from .columns import IMAGE, INPUT, MASK, columns, schema
from .pictures import EDITED, Fingerprints, expected_bytes, original_of
from .pictures import MASK as MASK_PICTURE
from .selection import Pair

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

    size: of a file in bytes, about. earlier: files of an earlier run by name, with their digests.
    A file that already holds the same rows stays as it is.
    """

    def __init__(
        self, folder: Path, size: int, negatives: bool, earlier: Mapping[str, File]
    ) -> None:
        self._folder, self._size, self._negatives = folder, size, negatives
        self._earlier, self._prints = earlier, Fingerprints()
        self._open: dict[str, _Open] = {}
        self._counts: dict[str, int] = {}
        self.files: list[File] = []

    def add(self, pair: Pair) -> None:
        """Add a pair, and write a file if one is full. Raises InputError."""
        kind = _file_name(pair.cells["type"])
        waiting = self._open.setdefault(kind, _Open())
        edited, mask = (self._prints.of(pair.row, name) for name in (EDITED, MASK_PICTURE))
        waiting.pairs.append(pair)
        waiting.prints.append((edited, mask))
        waiting.size += expected_bytes(pair.row) + sum(p[1] for p in (edited, mask) if p)
        if waiting.size >= self._size or len(waiting.pairs) == SHARD_ROWS:
            self._write(kind)

    def close(self) -> None:
        """Write what is left, and remove files that belong to no row any more."""
        for kind in sorted(self._open):
            self._write(kind)
        self.files.sort(key=lambda file: file.name)
        mine = {file.name for file in self.files}
        for path in (self._folder / DATA).glob("*.parquet"):
            if f"{DATA}/{path.name}" not in mine:
                path.unlink()

    def _write(self, kind: str) -> None:
        waiting = self._open.pop(kind)
        number = self._counts[kind] = self._counts.get(kind, -1) + 1
        name = f"{DATA}/{kind}_{number:05d}.parquet"
        path, plan = self._folder / name, _plan(waiting, self._negatives)
        if not self._is_there(path, name, plan):
            with atomic_path(path) as temporary:
                write_pairs(temporary, waiting.pairs, plan, self._negatives)
        size, digest = path.stat().st_size, file_digest(path)
        self.files.append(File(name, len(waiting.pairs), size, digest, plan))

    def _is_there(self, path: Path, name: str, plan: str) -> bool:
        if not path.is_file() or _plan_in(path) != plan:
            return False
        known = self._earlier.get(name)
        return known is None or known.plan != plan or known.sha256 == file_digest(path)


def _file_name(kind: str) -> str:
    return "".join(c if c.isalnum() or c in " -_" else "_" for c in kind) or "edit"


def _plan(waiting: _Open, negatives: bool) -> str:
    """Digest of all that decides a file's content."""
    digest = hashlib.sha256(f"{__version__} {negatives}".encode())
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


def write_pairs(path: Path, pairs: Sequence[Pair], plan: str, negatives: bool) -> None:
    """Write a parquet file of at most GROUP_ROWS rows a group. Raises InputError."""
    import pyarrow as pa

    layout = schema(negatives)
    layout = layout.with_metadata({**(layout.metadata or {}), FOOTER: plan.encode()})
    with _writer(path, layout, negatives) as writer:
        for rows in _groups(pairs, negatives):
            writer.write_table(pa.Table.from_pylist(rows, layout), row_group_size=GROUP_ROWS)


def _writer(path: Path, layout: Any, negatives: bool) -> "pq.ParquetWriter":
    """Pictures are neither compressed again nor given statistics: both would only cost space."""
    import pyarrow.parquet as pq

    pictures = {f"{c.name}.bytes" for c in columns(negatives) if c.kind == IMAGE}
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


def _groups(pairs: Sequence[Pair], negatives: bool) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for pair in pairs:
        row = _row(pair, negatives)
        size += sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict))
        rows.append(row)
        if len(rows) == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(pair: Pair, negatives: bool) -> dict[str, Any]:
    before, after = original_of(pair.row), pair.row.encoded(EDITED)
    if pair.swapped:
        before, after = after, before
    pictures = {INPUT: before, columns(negatives)[2].name: after}
    stage, _, key = MASK_PICTURE.partition(".")
    if stage in pair.row.found and key in pair.row.found[stage].pictures:
        pictures[MASK] = pair.row.encoded(MASK_PICTURE)
    cells = {name: {"bytes": data, "path": None} for name, data in pictures.items()}
    return {**dict(pair.cells), **cells}


def read_files(manifest: Mapping[str, Any]) -> dict[str, File]:
    """Files of an export's manifest by name. Raises InputError."""
    try:
        return {entry["name"]: File(**entry) for entry in manifest["files"]}
    except (LookupError, TypeError) as error:
        raise InputError(f"the manifest is not one of an export ({error})") from error
