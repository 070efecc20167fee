"""What was measured, as JSON; NaN and infinities, which it has no words for, become null."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editmgt_lib.files import atomic_write_json

Record = dict[str, Any]


def read(path: Path) -> Record:
    """What `write` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, result: Record) -> None:
    """Write a whole file, of which no reader sees half."""
    atomic_write_json(path, finite(result))


def update(path: Path, values: Record) -> None:
    """Write values into a file, which keeps what else it holds."""
    write(path, (read(path) if path.exists() else {}) | values)


def read_lines(path: Path) -> list[Record]:
    """The rows `add_line` wrote; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def add_line(path: Path, row: Record) -> None:
    """Append a row to a file of lines; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(row), allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same value, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
