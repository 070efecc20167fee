"""ImgEdit-Bench, its basic part: 737 instructions in nine types on 171 pictures, scored by a judge.

Five pictures carry all 100 style edits, and twenty all 95 additions, so items of one picture are
one cluster.
"""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..items import Item, Store
from .reading import (
    PictureFolder,
    cell,
    damaged,
    item_id,
    keep_picture,
    parse_json,
    read_json,
    require_counts,
)

COUNTS = {
    "add": 95, "adjust": 94, "extract": 117, "replace": 92, "remove": 86, "background": 94,
    "style": 100, "compose": 23, "action": 36,
}  # fmt: skip
"""Types in the order of the published table; "compose" is its "hybrid"."""

ARCHIVE = "Benchmark.tar"
_OLDER = {"alter": "adjust"}  # the list's first version
_LISTS = tuple(
    f"{folder}{name}"
    for folder in ("", "Basic/", "singleturn/", "Benchmark/singleturn/", "Benchmark/Basic/")
    for name in ("basic_edit.json", "singleturn.json")
)
_PICTURES = ("", "singleturn/", "Benchmark/singleturn/", "original_images/")


@dataclass(frozen=True)
class ImgEdit:
    """All items; `data` holds the list and the pictures, or Benchmark.tar as it was fetched."""

    name: str = "imgedit"
    counts: Mapping[str, int] = field(default_factory=lambda: COUNTS)
    pictures: int = 171
    average = "tasks"
    metrics = ("l1/source/fit-output", "clip-i/vit-b-32/source", "dino/v1-s-16/source")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Types of edit."""
        return tuple(self.counts)

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        own_list = next((data / name for name in _LISTS if (data / name).is_file()), None)
        if not (data / ARCHIVE).is_file():
            if own_list is None:
                raise InputError(f"{data} holds no {ARCHIVE}, basic_edit.json or singleturn.json")
            rows, folder = self._checked(read_json(own_list, dict)), PictureFolder(data)
            paths = {name: folder.find(*_places(name)) for name in _names(rows)}
            folder.check()
        else:
            with _Archive(data / ARCHIVE) as archive:
                rows = read_json(own_list, dict) if own_list else archive.list()
                rows = self._checked(rows)
                paths = {name: archive.keep(name, store) for name in _names(rows)}
        for number, (key, row) in enumerate(rows.items()):
            yield Item(
                id=item_id(self.name, number, key),
                task=_type(row),
                instruction=cell(row, "prompt", str, _where(key)),
                source=paths[row["id"]],
                cluster=paths[row["id"]],
                extra={"key": key},
            )

    def _checked(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        """The rows, if there are as many as there must be, on as many pictures."""
        require_counts(self.name, self.counts, map(_type, rows.values()))
        if len(names := _names(rows)) != self.pictures:
            raise InputError(
                f"{self.name} has {self.pictures:,} pictures and its list names {len(names):,}; "
                "fetch it again"
            )
        return rows


class _Archive:
    """Benchmark.tar, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115
            self._members = {m.name.removeprefix("./"): m for m in self._tar if m.isfile()}
        except (tarfile.TarError, OSError, EOFError) as error:
            raise damaged(path, error) from error

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def list(self) -> dict[str, Any]:
        """Parse the list of instructions."""
        name, data = self._read(*_LISTS)
        return parse_json(data, f"{self.path}: {name}", dict)

    def keep(self, name: str, store: Store) -> str:
        """Store a picture."""
        return keep_picture(self._read(*_places(name))[1], store, f"{self.path}: {name}")

    def _read(self, *names: str) -> tuple[str, bytes]:
        name = next((name for name in names if name in self._members), None)
        if name is None:
            raise InputError(f"{self.path} holds no {names[0]}; fetch it again")
        try:
            return name, self._tar.extractfile(self._members[name]).read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise damaged(self.path, error) from error


def _names(rows: Mapping[str, Any]) -> list[str]:
    """Names of the pictures, each once."""
    return list(dict.fromkeys(cell(row, "id", str, _where(key)) for key, row in rows.items()))


def _places(name: str) -> list[str]:
    return [f"{place}{name}" for place in _PICTURES]


def _type(row: Any) -> str:
    found = row.get("edit_type") if isinstance(row, Mapping) else None
    return _OLDER.get(str(found), str(found))


def _where(key: str) -> str:
    return f"item {key} of the list"
