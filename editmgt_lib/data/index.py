"""The index of a finished cache: where each row is, and what was read for it."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, InputError
from ..files import atomic_write_bytes, atomic_write_json
from .rows import Row, RowCounts
from .shards import (
    FOLDER,
    MANIFEST,
    RECORDS,
    Manifest,
    part_manifests,
    read_manifest,
    read_settings,
)

INDEX, ROWS, PROMPTS = "index.json", "rows.index", "prompts.txt"
ROW_TYPE = np.dtype(
    [("shard", "<u4"), ("place", "<u4"), ("key", "<u8"), ("prompt", "<u8"), ("length", "<u4")]
)


@dataclass(frozen=True, repr=False)
class Index:
    """A finished cache.

    Attributes:
        settings: what decided its records. shards: name and number of rows of each.
        rows: of ROW_TYPE, mapped. prompts: their text, mapped.
        counts: of all rows read. kinds: number of rows of each kind.
        fingerprint: of everything above.
    """

    folder: Path
    settings: dict[str, Any]
    shards: tuple[tuple[str, int], ...]
    rows: np.ndarray
    prompts: np.ndarray
    counts: RowCounts
    kinds: dict[str, int]
    fingerprint: str

    def prompt(self, row: int) -> str:
        """Prompt of a row."""
        start, length = int(self.rows["prompt"][row]), int(self.rows["length"][row])
        return self.prompts[start : start + length].tobytes().decode()

    def summary(self) -> str:
        """Describe the cache in a few lines."""
        s, grid = self.settings, self.settings["grid"]
        what = "pairs" if s["edits"] else "captioned pictures"
        crops = f"{s['crops']} crop{'s' * (s['crops'] > 1)} each"
        kinds = ", ".join(f"{kind or '(none)'} {n:,}" for kind, n in self.kinds.items())
        return "\n".join(
            (
                f"{len(self.rows):,} {what} at {s['size']} pixels: {grid}x{grid} tokens, {crops}",
                f"kinds: {kinds}",
                self.counts.summary(),
                f"tokenizer {s['tokenizer']}, pooled text {s['text'] or 'none'}, "
                f"source {s['source']}, cache {self.fingerprint[:16]}",
            )
        )


def write_index(folder: Path, parts: int, most_skipped: float) -> bool:
    """Write the index if all parts are complete; says whether it did.

    Any process may: the result depends on the shards alone. Raises InputError if more than a
    fraction `most_skipped` of the rows was skipped, or none is left.
    """
    manifests: list[Manifest] = []
    for part in range(parts):
        found, complete = part_manifests(folder, part)
        if not complete:
            return False
        manifests += found
    counts = RowCounts()
    for manifest in manifests:
        counts.add(manifest.counts)
    counts.check(most_skipped, final=True)
    if not counts.used:
        raise InputError(f"no row of the data can be used. {counts.summary()}")
    rows, prompts = _tables(manifests)
    kinds = Counter(kind for m in manifests for _, kind, _ in m.rows)
    atomic_write_bytes(folder / PROMPTS, prompts)
    atomic_write_bytes(folder / ROWS, rows.tobytes())
    described = json.dumps([(m.name, m.sha256, m.rows) for m in manifests])
    atomic_write_json(
        folder / INDEX,
        {
            "fingerprint": hashlib.sha256(described.encode()).hexdigest(),
            "counts": counts.to_dict(),
            "kinds": dict(sorted(kinds.items())),
            "shards": [(m.name, len(m.rows)) for m in manifests if m.rows],
        },
    )
    return True


def _tables(manifests: Sequence[Manifest]) -> tuple[np.ndarray, bytes]:
    rows = np.zeros(sum(len(m.rows) for m in manifests), ROW_TYPE)
    texts, at, row = [], 0, 0
    for shard, manifest in enumerate(m for m in manifests if m.rows):
        for place, (id, kind, prompt) in enumerate(manifest.rows):
            text = prompt.encode()
            key = Row(id, kind, prompt, b"").key
            rows[row] = (shard, place, key, at, len(text))
            texts.append(text)
            at, row = at + len(text), row + 1
    return rows, b"".join(texts)


def read_index(folder: Path) -> Index:
    """Read the index of a finished cache.

    Raises InputError if there is none; CheckpointError if it cannot be read.
    """
    settings = read_settings(folder)
    if settings is None:
        raise InputError(f"{folder} holds no cache; make one with `editmgt cache DATA --out DIR`")
    if not (folder / INDEX).exists():
        raise InputError(
            f"the cache in {folder} is not finished; run the command that began it again"
        )
    try:
        data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        counts, rows = RowCounts.from_dict(data["counts"]), np.memmap(folder / ROWS, ROW_TYPE, "r")
        if len(rows) != counts.used:
            raise ValueError(f"{ROWS} has {len(rows)} rows, not {counts.used}")
        return Index(
            folder,
            settings,
            tuple((name, rows) for name, rows in data["shards"]),
            rows,
            np.memmap(folder / PROMPTS, np.uint8, mode="r"),
            counts,
            data["kinds"],
            data["fingerprint"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"the index of {folder} cannot be read ({error}); remove {INDEX} and run the command "
            "that made it again"
        ) from error


def damaged_shards(folder: Path, index: Index) -> list[str]:
    """Names of shards whose records are not those that were written; reads all of them."""
    damaged = []
    for name, _ in index.shards:
        manifest = read_manifest(folder, name)
        try:
            data = (folder / FOLDER / f"{name}{RECORDS}").read_bytes()
        except OSError:
            data = b""
        if manifest is None or hashlib.sha256(data).hexdigest() != manifest.sha256:
            damaged.append(name)
    return damaged


def remove_shards(folder: Path, names: Sequence[str]) -> None:
    """Remove shards and the index, so that the next run encodes them again."""
    (folder / INDEX).unlink(missing_ok=True)
    for name in names:
        for suffix in (MANIFEST, RECORDS):
            (folder / FOLDER / f"{name}{suffix}").unlink(missing_ok=True)
