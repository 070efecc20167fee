"""Where results go: checked before the work starts, so that none is done in vain."""

import json
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import require_file_name
from ..pictures.formats import READABLE, WRITABLE
from .console import DEFECT, one_line, report, show, shown
from .identity import Listings, identities
from .interrupts import is_interrupt, working
from .options import path_of

PICTURES = tuple(WRITABLE)
RECORDS = (".json", ".jsonl")


class Outputs:
    """The paths one run will write.

    inputs: files that are read, never to be written; overwrite: whether a path may exist;
    folders: whose pictures are all edited, so that a result in one would be the next run's input.
    """

    def __init__(
        self, inputs: Iterable[Path], overwrite: bool, folders: Iterable[Path] = ()
    ) -> None:
        self.overwrite = overwrite
        self._listings: Listings = {}
        self._inputs = self._all_identities(inputs)
        self._folders = self._all_identities(folders)
        self._claimed: dict[Hashable, str] = {}

    def claim(
        self, option: str, path: Path, suffixes: Sequence[str] = PICTURES, resume: bool = False
    ) -> Path:
        """Give `path` back if it can be written, or if it may stay (`resume`: it may exist).

        Raises InputError for a suffix that is not listed, an input, a path claimed before, an
        existing file without --overwrite, and a place that cannot be written.
        """
        what = f"{option} {shown(path)}"
        if path.suffix.lower() not in suffixes:
            raise InputError(
                f"{option} is {shown(path)}; use a name ending in {', '.join(suffixes)}"
            )
        keys = identities(path, self._listings)
        if keys & self._inputs:
            raise InputError(f"{what} is an input; choose another name, inputs are kept")
        if suffixes is PICTURES and identities(path.parent, self._listings) & self._folders:
            raise InputError(f"{what} lies in the folder being edited; choose another folder")
        for key in keys & self._claimed.keys():
            raise InputError(
                f"{what} is also {self._claimed[key]} of this run; choose another name"
            )
        if os.path.isdir(path):
            raise InputError(f"{what} is a folder; give the name of a file")
        if os.path.lexists(path) and not (resume or self.overwrite):
            raise InputError(f"{what} exists; choose another name or add --overwrite")
        require_file_name(path)
        _require_writable(what, path)
        self._claimed |= dict.fromkeys(keys, option)
        return path

    def _all_identities(self, paths: Iterable[Path]) -> set[Hashable]:
        return {key for path in paths for key in identities(path, self._listings)}


@dataclass(frozen=True)
class Job:
    """One picture to edit, and the files to make of it."""

    source: Path
    out: Path
    attention: Path | None = None
    changed: Path | None = None

    @property
    def outputs(self) -> dict[str, Path]:
        """The files to make, by option."""
        files = {
            "--out": self.out,
            "--attention-out": self.attention,
            "--changed-out": self.changed,
        }
        return {option: path for option, path in files.items() if path is not None}

    @property
    def done(self) -> bool:
        """Whether all of them are there."""
        return all(os.path.isfile(path) for path in self.outputs.values())


def place(option: str, out: str, names: Sequence[str], folder: bool) -> list[Path]:
    """Output paths of results called `names`: `out` itself for one, `out/NAME.png` for several.

    folder: whether `out` is a folder even for a single name. An existing folder always is one.
    """
    path = path_of(out)
    folder = folder or os.path.isdir(path) or out.endswith(("/", os.sep))
    if not folder:
        return [path][: len(names)]
    if path.suffix.lower() in READABLE and not os.path.isdir(path):
        raise InputError(f"{option} is {shown(path)}, a file, for several results; give a folder")
    return [path / f"{name}.png" for name in names]


class Records:
    """The JSON object of each picture: on the screen, or one a line in a file.

    resume: go on with the file of an earlier run, whose pictures keep their lines.
    """

    def __init__(self, option: str | None, outputs: Outputs, resume: bool = False) -> None:
        self.printing = option == "-"
        self._file = None
        self._earlier: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._writing = self._begun = False
        if option is not None and not self.printing:
            self._file = outputs.claim("--json", path_of(option), RECORDS, resume)
            if resume and not outputs.overwrite:
                self._earlier = _read_rows(self._file)

    def renew(self, inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
        """Drop the earlier lines of outputs made anew, and of failures of these inputs."""
        stale = {("input", os.path.realpath(path)) for path in inputs}
        stale |= {("output", os.path.realpath(path)) for path in outputs}
        self._earlier = [row for row in self._earlier if _key(row) not in stale]

    def skip(self, rows: Iterable[dict[str, Any]]) -> None:
        """Note pictures that were there before the run, unless they have their lines already."""
        known = {_key(row) for row in self._earlier}
        for row in rows:
            if _key(row) not in known:
                self.add(row | {"skipped": "the output exists"})

    def add(self, row: dict[str, Any], line: str = "") -> None:
        """Take one picture's object; `line` is what a person sees instead of it."""
        self._waiting.append(row)
        if self._writing:
            self.write()
        if self.printing:
            show(json.dumps(row))
        elif line:
            show(shown(line))

    def write(self) -> None:
        """Write what was added so far; from now on each object is written as it is added."""
        from ..files import atomic_write_bytes

        self._writing = True
        if self._file is None or not self._waiting:
            return
        working()
        new, self._waiting = self._waiting, []
        if self._begun:
            _append(self._file, _lines(new))
            return
        atomic_write_bytes(self._file, _lines(self._earlier + new))
        self._begun = True


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
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            code = report(error, self._debug, about=source)
            self.code = DEFECT if DEFECT in (code, self.code) else code
            self._records.add({"input": str(source), "error": one_line(str(error))})


def _key(row: dict[str, Any]) -> tuple[str, str]:
    """Equal for two lines about one picture; a failure has no output."""
    kind = "output" if "output" in row else "input"
    return kind, os.path.realpath(row[kind])


def _read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of an earlier run; a last one that was cut off is dropped.

    Raises InputError for a file that no run wrote: it is not ours to replace.
    """
    try:
        *lines, last = file.read_bytes().split(b"\n") if os.path.lexists(file) else [b""]
        rows = [json.loads(line) for line in lines]
        if not any(head.startswith(last[: len(head)]) for head in (b'{"input": ', b'{"output": ')):
            raise ValueError("not cut off, but of another kind")
        with suppress(ValueError):
            rows.append(json.loads(last))
        if not all(isinstance(row.get("output", row.get("input")), str) for row in rows):
            raise ValueError("no picture")
    except OSError as error:
        raise InputError(f"cannot read {shown(file)}: {error.strerror}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"--json {shown(file)} exists and holds no results of an earlier run; "
            "choose another name or add --overwrite"
        ) from error
    return rows


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _append(file: Path, data: bytes) -> None:
    try:
        with open(file, "ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"cannot write {shown(file)}: {error.strerror}; make room") from error


def _require_writable(what: str, path: Path) -> None:
    """Raise InputError unless missing folders and the file can be made."""
    parent, missing = path.absolute().parent, [path.name]
    while not os.path.lexists(parent) and parent != parent.parent:
        missing.append(parent.name)
        parent = parent.parent
    if not os.path.isdir(parent):
        raise InputError(f"{what}: {shown(parent)} is a file; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{what}: {shown(parent)} cannot be written; choose another folder")
    for name in missing:
        try:
            os.lstat(parent / name)
        except FileNotFoundError:
            continue
        except OSError as error:  # too long, or a character the file system has not
            raise InputError(f"{what}: {error.strerror}; choose another name") from error
