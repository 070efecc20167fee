"""The output folder: what every stage found, in shards whose manifest is written last.

A stage writes a piece of a shard at a time: lines of JSON, and a zip file of the pictures it made.
A piece without its manifest does not exist, and none is ever changed. Rows that come into question
later, because a threshold moved, go into a further piece.
"""

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import CheckpointError, InputError
from ..files import atomic_path, atomic_write_json, file_digest
from ..pictures.formats import HEAD, format_of
from .rows import Failure, Found, Picture, Stored
from .spending import costs_of

FORMAT = 1
HEADER, SETTINGS = "curation.json", "settings.json"
LINES, PICTURES, MANIFEST = ".jsonl", ".zip", ".json"


class PieceName(NamedTuple):
    """Piece of a shard of a stage."""

    stage: str
    shard: int
    piece: int

    def path(self, folder: Path, suffix: str) -> Path:
        """One of its files."""
        return folder / self.stage / f"{self.shard:06d}-{self.piece:03d}{suffix}"


@dataclass(frozen=True)
class Manifest:
    """What a piece holds.

    Attributes:
        rows: lines. codes: how many of each failure code; of decisions, see `decisions`.
        digests: SHA-256 of its files. size: of all of them, in bytes. seconds: spent on it.
        spent: calls, edits and tokens, see `costs_of`.
    """

    rows: int
    codes: Mapping[str, int]
    digests: Mapping[str, str]
    size: int = 0
    seconds: float = 0.0
    spent: Mapping[str, int] = field(default_factory=dict)


def claim(folder: Path) -> None:
    """Begin a curation in an empty folder, or go on with one. Raises InputError for any other."""
    header = folder / HEADER
    if header.is_file():
        found = read_json(header).get("format")
        if found != FORMAT:
            raise CheckpointError(f"{header} has format {found!r}, not {FORMAT}; use another --out")
        return
    if folder.is_dir() and any(folder.glob("[!.]*")):
        raise InputError(f"{folder} is not empty and holds no curation; choose another --out")
    atomic_write_json(header, {"format": FORMAT})


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing. Not while another run writes into the folder."""
    for path in folder.glob("*/.*.tmp*"):
        path.unlink(missing_ok=True)


def claim_stage(folder: Path, stage: str, settings: Mapping[str, Any]) -> None:
    """Write what decides a stage's results, or check that it is what its folder was made with.

    Raises InputError naming the first setting that differs.
    """
    path, wanted = folder / stage / SETTINGS, json.loads(json.dumps(settings))
    if not path.is_file():
        atomic_write_json(path, wanted)
        return
    present = read_json(path)
    for name in sorted({*present, *wanted}):
        if present.get(name) != wanted.get(name):
            raise InputError(
                f"{folder / stage} was computed with {name} = {present.get(name)!r}, not "
                f"{wanted.get(name)!r}; remove that folder to compute it again, or use another "
                "--out"
            )


def pieces(folder: Path, stage: str, shard: int) -> list[PieceName]:
    """The complete pieces of a shard."""
    names: list[PieceName] = []
    while (name := PieceName(stage, shard, len(names))).path(folder, MANIFEST).is_file():
        names.append(name)
    return names


def write_piece(
    folder: Path,
    name: PieceName,
    results: Iterable[tuple[str, Found]],
    clock: Callable[[], float] = monotonic,
) -> Manifest:
    """Write what a stage found about rows, by id, as it comes. Raises InputError if it cannot."""
    start, codes, spent = clock(), Counter[str](), Counter[str]()

    def lines() -> Iterator[dict[str, Any]]:
        for id, found in results:
            line = _line(id, found, archive)
            spent.update(costs_of(name.stage, found))
            codes.update([line["failure"]["code"]] if "failure" in line else ())
            yield line

    with _Archive(name.path(folder, PICTURES)) as archive:
        rows = write_lines(name.path(folder, LINES), lines())
    return write_manifest(folder, name, rows, codes, clock() - start, spent)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    """Write lines of JSON, the number of which is returned. Raises InputError if it cannot."""
    rows = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for rows, line in enumerate(lines, 1):  # noqa: B007
            file.write(line_bytes(line))
    return rows


def line_bytes(line: Mapping[str, Any]) -> bytes:
    """One line of JSON, the same on every machine; odd bytes of file names survive."""
    return (json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n").encode()


def write_manifest(
    folder: Path,
    name: PieceName,
    rows: int,
    codes: Mapping[str, int],
    seconds: float,
    spent: Mapping[str, int] = MappingProxyType({}),
) -> Manifest:
    """Make a piece count."""
    files = [path for s in (LINES, PICTURES) if (path := name.path(folder, s)).is_file()]
    digests = {path.name: file_digest(path) for path in files}
    size = sum(path.stat().st_size for path in files)
    codes, spent = (dict(sorted(counts.items())) for counts in (codes, spent))
    manifest = Manifest(rows, codes, digests, size, round(seconds, 3), spent)
    atomic_write_json(name.path(folder, MANIFEST), asdict(manifest))
    return manifest


def read_manifest(folder: Path, name: PieceName) -> Manifest:
    """Read a manifest. Raises CheckpointError."""
    path = name.path(folder, MANIFEST)
    try:
        return Manifest(**read_json(path))
    except TypeError as error:
        raise CheckpointError(
            f"{path} is no manifest ({error}); remove it and run again"
        ) from error


def read_lines(folder: Path, name: PieceName) -> list[dict[str, Any]]:
    """Lines of a piece. Raises CheckpointError if they are not what was written."""
    path = name.path(folder, LINES)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != read_manifest(folder, name).digests.get(path.name):
        raise _damaged(path, "its content is not what its manifest says")
    return [json.loads(line) for line in data.splitlines()]


# --- what was found, as plain data ---


def found_of(line: Mapping[str, Any], folder: Path) -> Found:
    """Read what `write_piece` wrote about a row. Raises CheckpointError."""
    try:
        failure = line.get("failure")
        return Found(
            line.get("values", {}),
            {k: Stored(folder / file, member) for k, (file, member) in
             line.get("pictures", {}).items()},
            None if failure is None else Failure(**failure),
            tuple(found_of(part, folder) for part in line.get("parts", ())),
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: a line is no row ({error}); compute it again") from error


def _line(id: str, found: Found, archive: "_Archive") -> dict[str, Any]:
    line: dict[str, Any] = {"id": id, **_plain(id, found, archive)}
    try:
        line_bytes(line)
    except (TypeError, ValueError, RecursionError) as error:
        line = {"id": id, "failure": asdict(Failure("not_plain", str(error), lasting=False))}
    return line


def _plain(id: str, found: Found, archive: "_Archive") -> dict[str, Any]:
    plain: dict[str, Any] = {}
    if found.values:
        plain["values"] = dict(found.values)
    if found.pictures:
        plain["pictures"] = {
            name: archive.add(f"{id}.{name}", picture) for name, picture in found.pictures.items()
        }
    if found.failure is not None:
        plain["failure"] = asdict(found.failure)
    if found.parts:
        parts = enumerate(found.parts)
        plain["parts"] = [_plain(f"{id}.{number}", part, archive) for number, part in parts]
    return plain


class _Archive:
    """A zip file that is made with its first picture."""

    def __init__(self, path: Path) -> None:
        self.path, self._stack, self._zip = path, ExitStack(), None

    def __enter__(self) -> "_Archive":
        self.path.unlink(missing_ok=True)  # left by a run that was killed before its manifest
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, name: str, picture: Picture) -> tuple[str, str]:
        """Store an encoded picture; gives the file, relative to the output, and its member."""
        if self._zip is None:
            temporary = self._stack.enter_context(atomic_path(self.path))
            self._zip = self._stack.enter_context(zipfile.ZipFile(temporary, "w"))
        data = picture.read() if isinstance(picture, Stored) else picture
        format_ = format_of(data[:HEAD]) or "bin"
        # A fixed date and system, so that equal pictures make equal files.
        info = zipfile.ZipInfo(f"{name}.{format_.lower()}")
        info.create_system = 3
        self._zip.writestr(info, data)
        return f"{self.path.parent.name}/{self.path.name}", info.filename


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be used: {why}; remove {path.stem}.* in {path.parent}, then run again"
    )
