"""Rows put together from what the stages wrote, and the listing they start from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from .rows import Found, Row
from .sources import STAGE as LISTING
from .sources import Listed, SourceConfig, list_source, row_id
from .store import (
    LINES,
    PieceName,
    found_of,
    pieces,
    read_lines,
    read_manifest,
    write_lines,
    write_manifest,
)


@dataclass(frozen=True)
class Curation:
    """An output folder, and the sources its rows come from.

    Attributes:
        stages: names in the order they run, the listing left out.
    """

    folder: Path
    sources: Mapping[str, SourceConfig]
    stages: tuple[str, ...] = field(default=())

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        count = 0
        while pieces(self.folder, LISTING, count):
            count += 1
        return range(count)

    def rows(self, shard: int, before: str = "") -> list[Row]:
        """Rows of a shard with what was found about them, by the stages ahead of one or by all."""
        names = self.stages[: self.stages.index(before)] if before else self.stages
        rows = [self._listed(line) for line in self._lines(LISTING, shard)]
        for stage in names:
            found = self.found(stage, shard)
            rows = [new for row in rows for new in _added(row, stage, found.get(row.id))]
        return rows

    def found(self, stage: str, shard: int) -> dict[str, Found]:
        """What a stage found about rows of a shard, by their ids; the last try counts."""
        return {line["id"]: found_of(line, self.folder) for line in self._lines(stage, shard)}

    def spent(self) -> Counter[str]:
        """Calls, edits, tokens and hours that all stages took, from their manifests."""
        spent, seconds = Counter[str](), 0.0
        for stage in self.stages:
            for shard in self.shards:
                for name in pieces(self.folder, stage, shard):
                    manifest = read_manifest(self.folder, name)
                    spent.update(manifest.spent)
                    seconds += manifest.seconds
        return Counter({**spent, "hours": round(seconds / 3600, 4)})

    def _lines(self, stage: str, shard: int) -> Iterator[dict[str, Any]]:
        for name in pieces(self.folder, stage, shard):
            yield from read_lines(self.folder, name)

    def _listed(self, line: Mapping[str, Any]) -> Row:
        source = self.sources.get(line["source"])
        if source is None:
            raise InputError(
                f"{self.folder} holds rows of the source {line['source']!r}, which the "
                "configuration lacks; name it again, or use another --out"
            )
        keys = ("key", "file", "member", "cells", "problem")
        return source.row(Listed(**{key: line[key] for key in keys if key in line}))

    def list_new(self, shard_rows: int) -> int:
        """List the rows of all sources that are not listed yet; gives their number.

        They go into further shards, in the order of the sources.
        """
        first = len(self.shards)
        known = {line["id"] for shard in range(first) for line in self._lines(LISTING, shard)}
        lines, total = self._new_lines(known), 0
        for shard in count(first):
            chunk = list(islice(lines, shard_rows))
            if not chunk:
                return total
            name = PieceName(LISTING, shard, 0)
            write_lines(name.path(self.folder, LINES), chunk)
            write_manifest(self.folder, name, len(chunk), {}, 0)
            total += len(chunk)
        return total

    def _new_lines(self, known: set[str]) -> Iterator[dict[str, Any]]:
        mine: set[str] = set()
        for source in self.sources.values():
            for listed in list_source(source):
                id = row_id(source.name, listed.key)
                if id in mine:
                    raise InputError(f"{source.name}: two rows have the id {id} ({listed.key})")
                mine.add(id)
                if id not in known:
                    stated = {k: v for k, v in vars(listed).items() if v}
                    yield {"id": id, "source": source.name, **stated}


def _added(row: Row, stage: str, found: Found | None) -> Sequence[Row]:
    return (row,) if found is None else row.add(stage, found)
