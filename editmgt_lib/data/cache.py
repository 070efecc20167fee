"""Encode a data set once: resumable at any kill, shared by any number of processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..checks import require_number
from ..errors import InputError
from .encoding import Cropped, Encoder, crop_all
from .index import INDEX, write_index
from .rows import PART_ROWS, Part, Reader, RowCounts
from .shards import claim_folder, part_manifests, shard_name, write_shard


@dataclass(frozen=True)
class CacheProgress:
    """What a process has done of its share, and how fast.

    Attributes:
        rows: read so far, `new` of them in this run. total: of its share; an estimate where files
            must be fetched to know.
        seconds: since this run began.
    """

    rows: int
    new: int
    total: int
    seconds: float

    def __str__(self) -> str:
        text = f"{self.rows:,} of {self.total:,} rows"
        if not self.new:
            return text
        rate = self.new / max(1e-9, self.seconds)
        minutes = (self.total - self.rows) / rate / 60
        left = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"
        return f"{text}, {rate:.1f} per second, {left} left"


@dataclass(frozen=True)
class CacheOptions:
    """How a cache is made. Raises InputError.

    Attributes:
        rank, world: which of how many processes this is; they share the parts by number.
        workers: threads that read pictures.
        most_skipped: fraction of rows that may be skipped.
        shard_rows: rows between two points where a killed run resumes.
    """

    rank: int = 0
    world: int = 1
    workers: int = 2
    most_skipped: float = 0.05
    shard_rows: int = PART_ROWS

    def __post_init__(self) -> None:
        require_number("world", self.world, 1, whole=True)
        require_number("rank", self.rank, 0, self.world - 1, whole=True)
        require_number("workers", self.workers, 1, 256, whole=True)
        require_number("max_skipped", self.most_skipped, 0, 1)
        require_number("shard_rows", self.shard_rows, 1, 2**20, whole=True)


def build_cache(
    reader: Reader,
    encoder: Encoder,
    folder: Path,
    options: CacheOptions | None = None,
    progress: Callable[[CacheProgress], None] | None = None,
) -> bool:
    """Encode this process's share of a data set; running it again resumes.

    Returns whether the cache is finished: the process that completes the last part writes the
    index.

    Raises:
        InputError: another data set, tokenizer or setting than the cache was begun with; too many
            rows skipped.
    """
    options = options or CacheOptions()
    settings = {**encoder.settings, "edits": reader.edits, "source": reader.fingerprint}
    claim_folder(folder, {**settings, **({"commit": reader.commit} if reader.commit else {})})
    if (folder / INDEX).exists():
        return True
    if not reader.parts:
        raise InputError("the data set holds no rows")
    job = _Job(reader, encoder, folder, options, progress)
    for number in range(options.rank, len(reader.parts), options.world):
        job.encode_part(number)
    return write_index(folder, len(reader.parts), options.most_skipped)


class _Job:
    """One process at work."""

    def __init__(
        self, reader: Reader, encoder: Encoder, folder: Path, options: CacheOptions,
        progress: Callable[[CacheProgress], None] | None,
    ) -> None:  # fmt: skip
        self.reader, self.encoder, self.folder = reader, encoder, folder
        self.options, self.progress = options, progress
        self.record_type = encoder.record_type(reader.edits)
        self.mine = reader.parts[options.rank :: options.world]
        self.counts, self.parts_done, self.new_rows = RowCounts(), 0, 0
        self.began = time.monotonic()

    def encode_part(self, number: int) -> None:
        """Encode what is missing of a part."""
        present, complete = part_manifests(self.folder, number)
        for manifest in present:
            self.counts.add(manifest.counts)
        if not complete:
            self._encode_rest(self.reader.parts[number], number, len(present),
                              sum(m.counts.read for m in present))  # fmt: skip
        self.parts_done += 1
        self._show()

    def _encode_rest(self, part: Part, number: int, chunk: int, start: int) -> None:
        counts, rows, records = RowCounts(), [], []

        def flush(last: bool) -> None:
            name = shard_name(number, chunk)
            write_shard(self.folder, name, last, counts, rows, records, self.record_type)
            self.counts.add(counts)
            self.counts.check(self.options.most_skipped)

        for item in crop_all(self.encoder, self.reader.rows(part, start), self.options.workers):
            if counts.read == self.options.shard_rows:
                flush(last=False)
                counts, rows, records, chunk = RowCounts(), [], [], chunk + 1
            if isinstance(item, Cropped):
                records.append(self.encoder.encode(item))
                rows.append(item.row)
                counts.use()
            else:
                counts.skip(item)
            self.new_rows += 1
            self._show(counts.read)
        flush(last=True)

    def _show(self, pending: int = 0) -> None:
        if self.progress is None:
            return
        rows = self.counts.read + pending
        known = [part.rows for part in self.mine if part.rows is not None]
        if len(known) == len(self.mine):
            total = sum(known)
        else:  # as many in each file as in those read so far
            total = round(rows * len(self.mine) / max(1, self.parts_done + (pending > 0)))
        seconds = time.monotonic() - self.began
        self.progress(CacheProgress(rows, self.new_rows, max(total, rows), seconds))
