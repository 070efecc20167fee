"""Files of JSON lines that survive a kill: a torn last line is as if it had not been written."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows and flush them to the disk; a torn last line of an earlier run is removed.

    One process writes a file. Raises InputError if it cannot be written or JSON cannot hold a row.
    """
    try:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _cut_torn_line(file)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cannot write {path} as JSON: {error}; use plain, finite values"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; check permissions and room"
        ) from (error)


def _cut_torn_line(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    whole, block = end, 1 << 16
    while whole > 0:
        start = max(0, whole - block)
        file.seek(start)
        newline = file.read(whole - start).rfind(b"\n")
        if newline >= 0:
            whole = start + newline + 1
            break
        whole = start
    if whole < end:
        file.truncate(whole)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read all complete rows; none if there is no file. Raises InputError for any other line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    lines = data.split(b"\n")[:-1]  # what follows the last newline is torn or nothing
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}; delete that line") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number} is no JSON object; delete that line")
    return row
