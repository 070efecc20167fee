"""Where pictures come from: a folder tree, a list or parquet files, each row with its licence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from ..checks import require_choice, require_number
from ..data.columns import KIND, PICTURE, SOURCE
from ..data.folders import LISTS, inside, read_list
from ..data.parquet import find_parquet, opened
from ..data.rows import clean
from ..errors import InputError
from ..pictures.formats import READABLE
from .parquet_cells import read_plain_columns
from .rows import Failure, Found, Origin, Row, Stored
from .terms import USES, terms_of

STAGE = "sources"
TOYWORLD = "toyworld:"
_COLUMNS = {
    "picture": (*PICTURE, *SOURCE, "path", "file", "filename"),
    "id": ("id", "key", "uid"),
    "licence": ("licence", "license", "License"),
    "url": ("url", "URL", "source_url", "OriginalURL"),
    "author": ("author", "Author", "artist", "photographer"),
    "instruction": ("instruction", "edit_instruction", "prompt"),
    "category": KIND,
}
_ID_DIGITS = 16


@dataclass(frozen=True)
class SourceConfig:
    """One source, as in a `[[sources]]` table. Raises InputError.

    Attributes:
        name: a plain word; part of the ids of its rows.
        path: a folder of pictures or of parquet files, a list (.jsonl, .csv) or a parquet file; a
            relative one starts at the table's file. "toyworld:N": N scenes of the toy world.
        licence: of rows whose list states none: an SPDX id, or a name that `terms` knows.
        uses: what you are allowed; by default what the licence says, nothing if it is not known.
        most: rows to take, in order; 0 for all.
        exclude: keep none of its pictures and none that repeats one: a benchmark's.
    """

    name: str
    path: str
    licence: str = "unknown"
    uses: tuple[str, ...] | None = None
    most: int = 0
    exclude: bool = False

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"name is {self.name!r}; use letters, digits, - and _")
        require_number("most", self.most, 0, whole=True)
        for use in self.uses or ():
            require_choice("uses", use, USES)

    @cached_property
    def root(self) -> Path:
        """The folder its pictures lie in."""
        path = Path(self.path).expanduser()
        return (path if path.is_dir() else path.parent).resolve()

    def row(self, listed: "Listed") -> Row:
        """The row of what was listed, on the terms the list states or those of the source."""
        stated = listed.cells.get("licence")
        licence = stated or self.licence
        uses = terms_of(licence).uses if stated or self.uses is None else self.uses
        cells = listed.cells
        origin = Origin(
            self.name, listed.key, licence, uses, cells.get("url", ""), cells.get("author", "")
        )
        failure = Failure("bad_path", listed.problem) if listed.problem else None
        picture = None if failure else self._stored(listed)
        given = {k: cells[k] for k in ("instruction", "category") if k in cells}
        found = {STAGE: Found(given, failure=failure)}
        return Row(row_id(self.name, listed.key), origin, picture, found)

    def _stored(self, listed: "Listed") -> Stored:
        if self.path.startswith(TOYWORLD):
            return Drawn(Path(TOYWORLD), listed.member)
        return Stored(self.root / listed.file, listed.member)


@dataclass(frozen=True)
class Drawn(Stored):
    """A scene of the toy world, drawn when it is read. member: its number."""

    def read(self) -> bytes:
        """The encoded picture."""
        from .backends.toyworld import toy_picture

        return toy_picture(int(self.member))


@dataclass(frozen=True)
class Listed:
    """A row as its source lists it.

    Attributes:
        key: unique in its source.
        file: relative to the source's folder. member: see `Stored`.
        cells: licence, url, author, instruction and category where stated.
        problem: why there is no picture.
    """

    key: str
    file: str = ""
    member: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def list_source(source: SourceConfig) -> Iterator[Listed]:
    """Rows of a source in a fixed order, no picture opened. Raises InputError."""
    seen: dict[str, int] = {}
    rows = _listed(source)
    for listed in islice(rows, source.most) if source.most else rows:
        seen[listed.key] = times = seen.get(listed.key, 0) + 1
        yield listed if times == 1 else replace(listed, key=f"{listed.key}#{times}")


def row_id(source: str, key: str) -> str:
    """Id of a row: the same in every run, on every machine."""
    return sha256(f"{source}\0{key}".encode()).hexdigest()[:_ID_DIGITS]


def _listed(source: SourceConfig) -> Iterator[Listed]:
    if source.path.startswith(TOYWORLD):
        yield from _toyworld(source)
        return
    path = Path(source.path).expanduser()
    if path.is_dir():
        files = find_parquet(source.root)
        yield from _parquet(files, source.root) if files else _tree(source.root)
    elif not path.is_file():
        raise InputError(
            f"source {source.name}: there is no {path}; name a folder of pictures, a list "
            "(.jsonl, .csv) or parquet files"
        )
    elif path.suffix.lower() == ".parquet":
        yield from _parquet([path.resolve()], source.root)
    elif path.suffix.lower() in LISTS:
        yield from _list(path, source.root)
    else:
        raise InputError(f"source {source.name}: {path} is no folder, list or parquet file")


def _toyworld(source: SourceConfig) -> Iterator[Listed]:
    number = source.path.removeprefix(TOYWORLD)
    if not number.isdecimal():
        raise InputError(f"source {source.name}: path is {source.path!r}; write as toyworld:200")
    for scene in range(int(number)):
        yield Listed(f"{scene:06d}", member=str(scene))


def _tree(root: Path) -> Iterator[Listed]:
    """Pictures of a folder and its sub-folders, by name; skips hidden ones and links out of it."""
    found = (p for p in root.rglob("*") if p.suffix.lower() in READABLE and p.is_file())
    names = (p.relative_to(root) for p in found)
    shown = (n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts))
    for name in sorted(shown):
        yield _file(root, clean(name), name, {})


def _list(path: Path, root: Path) -> Iterator[Listed]:
    """Rows of a JSONL or CSV file, read line by line."""
    for number, cells in enumerate(read_list(path)):
        if isinstance(cells, str):
            yield Listed(f"{path.name}:{number}", problem=cells)
            continue
        named = {what: _first(cells, names) for what, names in _COLUMNS.items()}
        picture = named.pop("picture")
        key = named.pop("id") or picture or f"{path.name}:{number}"
        yield _file(root, clean(key), picture, {k: clean(v) for k, v in named.items() if v})


def _file(root: Path, key: str, name: str, cells: Mapping[str, str]) -> Listed:
    try:
        inside(root, name)
    except InputError as error:
        return Listed(key, cells=cells, problem=str(error))
    return Listed(key, name, "", cells)


def _parquet(files: list[Path], root: Path) -> Iterator[Listed]:
    """Rows of parquet files; only footers and short text columns are read."""
    for path in files:
        name = path.relative_to(root).as_posix()
        with opened(path) as file:
            names = set(file.schema_arrow.names)
            if not any(column in names for column in _COLUMNS["picture"]):
                options = ", ".join(_COLUMNS["picture"])
                raise InputError(f"{path} has no column for the picture; name it one of {options}")
            short = {k: next((c for c in v if c in names), "") for k, v in _COLUMNS.items()}
            short.pop("picture")
            rows = read_plain_columns(file, [c for c in short.values() if c])
            for number, row in enumerate(rows):
                named = {what: clean(str(row.get(column) or "")) for what, column in short.items()}
                key = named.pop("id") or f"{name}:{number}"
                yield Listed(key, name, str(number), {k: v for k, v in named.items() if v})


def _first(cells: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(cells[n]) for n in names if cells.get(n) not in (None, "")), "")
