"""Stage prepare: a benchmark on disk -> items.jsonl and, out of archives and tables, inputs/."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_bytes
from .datasets.fetching import revisions
from .items import Dataset, Item
from .manifest import digest_of_texts
from .runs import IN_RUN, RunFolder

_NAME = re.compile(r"[A-Za-z0-9_=+,@-][A-Za-z0-9._=+,@-]{0,199}")  # on every file system
_PLACE = ("data",)  # the data may lie elsewhere on another machine


def prepare(
    run: RunFolder,
    dataset: Dataset,
    data: Path,
    *,
    limit: int | None = None,
    chains: bool = False,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Read the items once, by the first process; later calls check that they ask for the same.

    limit: the first items only. chains: let each turn edit the result of the one before, instead
    of the data's own picture. options: what else decides which items there are.
    Raises InputError as `Dataset.items`; also for ids that are no file names or not unique.
    """
    asked = {
        "dataset": dataset.name,
        "options": dict(options or {}),
        "limit": limit,
        "chains": chains,
    }
    if run.process.rank > 0:
        run.wait_for("prepare")
    if stated := run.manifest.get("prepare"):
        run.claim("prepare", stated | asked | {"data": str(data.resolve())}, free=_PLACE)
        _check_unchanged(run, stated["digest"])
        return
    read = dataset.items(data, _Store(run))
    items = _in_chains(read) if chains else (replace(item, previous=None) for item in read)
    items = tuple(_checked(islice(items, limit)))
    if not items:
        raise InputError(f"{dataset.name} in {data} has no items; check --data and --limit")
    lines = [json.dumps(item.to_dict(), ensure_ascii=False) for item in items]
    opened = RunFolder(run.path, data, run.process)
    run.path.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(run.path / "items.jsonl", "".join(f"{x}\n" for x in lines).encode())
    _require_pictures(opened, items)
    made = {
        "items": len(items),
        "tasks": dict(Counter(item.task for item in items)),
        "digest": digest_of_texts(lines),
        "data": str(data.resolve()),
        "revisions": revisions(data),
    }
    run.claim("prepare", asked | made, free=_PLACE)


def _in_chains(items: Iterable[Item]) -> Iterator[Item]:
    """Put every turn behind the one before it, chains in the order of their first turns."""
    followers: dict[str | None, list[Item]] = {}
    for item in items:
        followers.setdefault(item.previous, []).append(item)
    waiting = followers.pop(None, [])[::-1]
    while waiting:
        item = waiting.pop()
        yield item
        waiting += followers.pop(item.id, [])[::-1]
    for previous, rest in followers.items():
        raise InputError(f"item {rest[0].id!r} follows {previous!r}, which is no item")


def _checked(items: Iterable[Item]) -> Iterator[Item]:
    """The items, as long as their ids can name files on every file system."""
    seen: set[str] = set()  # in lower case: some file systems know no other
    for item in items:
        if not _NAME.fullmatch(item.id):
            raise InputError(
                f"item id {item.id!r} is no safe file name; use letters, digits and ._=+,@-"
            )
        if item.id.lower() in seen:
            raise InputError(f"two items have the id {item.id!r}; make ids unique")
        seen.add(item.id.lower())
        yield item


def _require_pictures(run: RunFolder, items: Iterable[Item]) -> None:
    named = (name for item in items for name in (item.source, item.reference, item.mask) if name)
    missing = [name for name in dict.fromkeys(named) if not run.locate(name).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} pictures of the data are missing, the first is "
            f"{run.locate(missing[0])}; complete the data"
        )


def _check_unchanged(run: RunFolder, digest: str) -> None:
    lines = (run.path / "items.jsonl").read_text("utf-8").split("\n")
    if digest_of_texts(lines[:-1]) != digest:
        raise InputError(f"{run.path / 'items.jsonl'} was changed; use another folder")


class _Store:
    """The Store of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def __call__(self, name: str, data: bytes) -> str:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no safe file name; use letters, digits and ._=+,@-")
        path = self._run.path / "inputs" / name
        if not path.exists():
            atomic_write_bytes(path, data)
        elif path.read_bytes() != data:
            raise InputError(
                f"{path} holds another picture; the data changed or two items share a name: "
                "use another folder"
            )
        return f"{IN_RUN}inputs/{name}"
