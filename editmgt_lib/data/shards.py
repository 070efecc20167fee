"""Shards of a token cache: a file of records, and a manifest written after it.

A shard without its manifest does not exist, so a killed run leaves nothing that is half there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, InputError
from ..files import atomic_write_bytes, atomic_write_json
from .rows import Row, RowCounts

FORMAT = 1
SETTINGS, FOLDER = "cache.json", "shards"
RECORDS, MANIFEST = ".records", ".json"


@dataclass(frozen=True)
class Manifest:
    """What a shard holds.

    Attributes:
        name: of its files. last: whether it ends its part.
        counts: of the rows read for it. sha256: of its records.
        rows: id, kind and prompt of each record.
    """

    name: str
    last: bool
    counts: RowCounts
    sha256: str
    rows: list[tuple[str, str, str]]


def shard_name(part: int, chunk: int) -> str:
    """Name of a shard; names sort in the order of rows."""
    return f"{part:06d}-{chunk:04d}"


def write_shard(
    folder: Path, name: str, last: bool, counts: RowCounts, rows: Sequence[Row],
    records: Sequence[np.ndarray], record_type: np.dtype,
) -> None:  # fmt: skip
    """Write a shard, manifest last. Raises InputError if the folder cannot be written."""
    data = np.array(records, record_type).tobytes()
    atomic_write_bytes(folder / FOLDER / f"{name}{RECORDS}", data)
    manifest = {
        "last": last,
        "sha256": hashlib.sha256(data).hexdigest(),
        "counts": counts.to_dict(),
        "rows": [(row.id, row.kind, row.prompt) for row in rows],
    }
    # Not for people, and one line: millions of rows.
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
    atomic_write_bytes(folder / FOLDER / f"{name}{MANIFEST}", text.encode())


def read_manifest(folder: Path, name: str) -> Manifest | None:
    """Read a shard's manifest; None if the shard is not complete. Raises CheckpointError."""
    path = folder / FOLDER / f"{name}{MANIFEST}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [(id, kind, prompt) for id, kind, prompt in data["rows"]]
        counts = RowCounts.from_dict(data["counts"])
        return Manifest(name, data["last"], counts, data["sha256"], rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove it and encode its rows again"
        ) from error


def part_manifests(folder: Path, part: int) -> tuple[list[Manifest], bool]:
    """The complete shards of a part from its start on, and whether they are all."""
    found: list[Manifest] = []
    while (manifest := read_manifest(folder, shard_name(part, len(found)))) is not None:
        found.append(manifest)
        if manifest.last:
            return found, True
    return found, False


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of a cache begun in `folder`; None if there is none. Raises CheckpointError."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise ValueError(f"its format is {settings['format']}, not {FORMAT}")
        return settings
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); encode the data anew") from error


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a cache, or check that they are those of the one in `folder`.

    Raises InputError naming the first setting that differs, and both values.
    """
    settings = {"format": FORMAT, **settings}
    present = read_settings(folder)
    if present is None:
        ours = (SETTINGS, FOLDER)  # of another process that has just begun
        if folder.is_dir() and any(p.name not in ours for p in folder.glob("[!.]*")):
            raise InputError(f"{folder} is not empty and holds no cache; choose another folder")
        atomic_write_json(folder / SETTINGS, settings)
        return
    require_settings(folder, present, settings)


# Words for settings that people do not set by their names.
_WORDS = {
    "tokenizer": "the tokenizer's weights (fingerprint)",
    "text": "the CLIP text encoder's weights (fingerprint)",
    "transform": "the version of the picture transform",
    "source": "the data set (fingerprint)",
}


def require_settings(folder: Path, present: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise InputError unless the settings of a cache are those wanted."""
    for name, value in wanted.items():
        if present.get(name) != value:
            raise InputError(
                f"{folder} was encoded with other data or settings: {_WORDS.get(name, name)} is "
                f"{present.get(name)!r} there and {value!r} now; use what it was made with, or "
                "encode into another folder"
            )


def map_records(path: Path, rows: int, record_type: np.dtype) -> np.ndarray:
    """Map a shard's records, read-only. Raises CheckpointError for a file of another length."""
    try:
        size = path.stat().st_size
        if size != rows * record_type.itemsize:
            raise ValueError(f"it has {size} bytes, not {rows * record_type.itemsize}")
        return np.memmap(path, record_type, mode="r", shape=(rows,))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove it and its manifest, then encode again"
        ) from error
