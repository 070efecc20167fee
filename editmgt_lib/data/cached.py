"""Training samples from a token cache."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checks import require_choice, require_number
from ..errors import InputError
from .encoding import record_type
from .fingerprints import digest
from .index import read_index
from .orders import Permutation
from .shards import FOLDER, RECORDS, map_records, require_settings
from .source import TokenBatch

SPLITS = ("train", "held-out", "all")
OPEN_SHARDS = 64  # mapped at a time: each holds a file descriptor


class CachedSource:
    """A TokenSource that reads a finished cache, shuffled anew in every epoch.

    Args:
        split: "train", "held-out" (by hash of the row's id) or "all".
        held_out: fraction of rows kept for validation.
        wanted: settings the cache must have been made with, as `Encoder.settings`.

    Raises:
        InputError: no finished cache, other settings, a split without rows; CheckpointError.
    """

    def __init__(
        self, folder: Path, seed: int, split: str = "train", held_out: float = 0.0,
        wanted: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.index = index = read_index(folder)
        self.require(wanted or {})
        rows = index.rows["key"]
        self._rows = rows_of_split(rows, split, held_out, str(folder))
        self.order = Permutation(len(self._rows), seed)
        self.edits = bool(index.settings["edits"])
        self._crops, grid = index.settings["crops"], index.settings["grid"]
        self._type = record_type(self.edits, self._crops, grid, index.settings["pooled"])
        self._shard = lru_cache(OPEN_SHARDS)(self._map)
        self.fingerprint = digest("rows", index.fingerprint, seed, split, held_out)

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    @property
    def has_pooled(self) -> bool:
        """Whether the pooled text is cached."""
        return self.index.settings["pooled"] > 0

    def require(self, wanted: dict[str, Any]) -> None:
        """Raise InputError unless the cache was made with these settings."""
        require_settings(self.index.folder, self.index.settings, wanted)

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these numbers, on the CPU."""
        located = [self.order.locate(number) for number in numbers]
        rows = [(int(self._rows[row]), epoch % self._crops) for row, epoch in located]
        records = [self._record(row) for row, _ in rows]
        prompts = [self.index.prompt(row) for row, _ in rows]
        return to_batch(records, [crop for _, crop in rows], prompts)

    def _record(self, row: int) -> np.void:
        return self._shard(int(self.index.rows["shard"][row]))[self.index.rows["place"][row]]

    def _map(self, shard: int) -> np.ndarray:
        name, rows = self.index.shards[shard]
        return map_records(self.index.folder / FOLDER / f"{name}{RECORDS}", rows, self._type)


def to_batch(records: Sequence[Any], crops: Sequence[int], prompts: Sequence[str]) -> TokenBatch:
    """A batch of one crop of each record."""
    types = {"target": np.int64, "source": np.int64, "micro": np.float32}

    def column(name: str) -> torch.Tensor:
        values = [record[name][crop] for record, crop in zip(records, crops, strict=True)]
        return torch.from_numpy(np.stack(values).astype(types[name]))

    names = records[0].dtype.names
    pooled = torch.from_numpy(np.stack([record["pooled"] for record in records]))
    return TokenBatch(
        column("target"),
        column("source") if "source" in names else None,
        prompts,
        column("micro"),
        pooled if pooled.shape[1] else None,
    )


def rows_of_split(keys: np.ndarray, split: str, held_out: float, where: str) -> np.ndarray:
    """Rows of a split, in their order: a row belongs to the same one whatever the seed.

    keys: `Row.key` of each row, uint64. Raises InputError if there are none.
    """
    require_choice("split", split, SPLITS)
    require_number("held_out", held_out, 0, 1)
    if split == "all":
        return np.arange(len(keys))
    held = keys.astype(np.float64) < held_out * 2.0**64
    rows = np.flatnonzero(held if split == "held-out" else ~held)
    if not len(rows):
        raise InputError(
            f"{where} has no rows in split {split!r} of {len(keys)} with held_out {held_out}; "
            "change held_out"
        )
    return rows
