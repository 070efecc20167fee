"""Where results go: checked before the work starts, so that none is done in vain."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .console import DEFECT, one_line, report
from .options import path_of

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
READABLE = (*PICTURES, ".bmp", ".gif", ".tif", ".tiff")
RECORDS = (".json", ".jsonl")


class Outputs:
    """The paths one run will write.

    inputs: files that are read, never to be written; overwrite: whether a path may exist.
    """

    def __init__(self, inputs: Iterable[Path], overwrite: bool) -> None:
        self._inputs = {_identity(path): path for path in inputs}
        self._claimed: dict[str, str] = {}
        self._overwrite = overwrite

    def claim(self, option: str, path: Path, suffixes: Sequence[str] = PICTURES) -> Path:
        """Give `path` back if it can be written.

        Raises InputError for a suffix that is not listed, an input, a path claimed before, an
        existing file without --overwrite, and a place that cannot be written.
        """
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{option} is {path}; give a name ending in {', '.join(suffixes)}")
        key = _identity(path)
        if key in self._inputs:
            raise InputError(f"{option} {path} is an input; choose another name, inputs are kept")
        if key in self._claimed:
            raise InputError(
                f"{option} {path} is also {self._claimed[key]} of this run; choose another name"
            )
        if os.path.isdir(path):
            raise InputError(f"{option} {path} is a folder; give the name of a file")
        if os.path.lexists(path) and not self._overwrite:
            raise InputError(f"{option} {path} exists; choose another name or add --overwrite")
        _require_writable(option, path)
        self._claimed[key] = option
        return path


@dataclass(frozen=True)
class Job:
    """One picture to edit, and the files to make of it."""

    source: Path
    out: Path
    attention: Path | None = None
    changed: Path | None = None


def place(option: str, out: str, names: Sequence[str], folder: bool) -> list[Path]:
    """Output paths of results called `names`: `out` itself for one, `out/NAME.png` for several.

    folder: whether `out` is a folder even for a single name. An existing folder always is one.
    """
    path = path_of(out)
    folder = folder or os.path.isdir(path) or out.endswith(("/", os.sep))
    if not folder:
        return [path]
    if path.suffix.lower() in READABLE and not os.path.isdir(path):
        raise InputError(f"{option} is {out}, a file, for a folder of results; give a folder")
    return [path / f"{name}.png" for name in names]


class Records:
    """The JSON object of each picture: printed at once, or kept for one file."""

    def __init__(self, option: str | None, outputs: Outputs) -> None:
        self._rows: list[dict[str, Any]] = []
        self.printing = option == "-"
        self._file = None
        if option is not None and not self.printing:
            self._file = outputs.claim("--json", path_of(option), RECORDS)

    def add(self, record: dict[str, Any], line: str = "") -> None:
        """Take one picture's object; `line` is what a person sees instead of it."""
        if self.printing:
            print(json.dumps(record), flush=True)
        elif line:
            print(line, flush=True)
        self._rows.append(record)

    def write(self) -> None:
        """Write the file, if there is to be one and something to write: one object per line."""
        from ..files import atomic_write_bytes

        if self._file is not None and self._rows:
            lines = [json.dumps(row) + "\n" for row in self._rows]
            atomic_write_bytes(self._file, "".join(lines).encode("utf-8"))


class Failures:
    """Errors of single inputs: reported as they come, so that the others go on."""

    def __init__(self, debug: bool, records: Records) -> None:
        self.code, self._debug, self._records = 0, debug, records

    @contextmanager
    def of(self, source: Path) -> Iterator[None]:
        """Report an error in the block and keep the worst exit code."""
        try:
            yield
        except Exception as error:
            code = report(error, self._debug, about=str(source))
            self.code = DEFECT if DEFECT in (code, self.code) else code
            self._records.add({"input": str(source), "error": one_line(str(error))})


def _identity(path: Path) -> str:
    """Equal for two ways to write one path, links followed."""
    return os.path.normcase(os.path.realpath(path))


def _require_writable(option: str, path: Path) -> None:
    parent = path.absolute().parent
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not os.path.isdir(parent):
        raise InputError(f"{option} {path}: {parent} is a file; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: {parent} cannot be written; choose another folder")
