"""What the results of bulk editing are called."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import count
from pathlib import PurePosixPath

from .assembly import Curation
from .rows import Row, Stored

_ODD = re.compile(r"[^\w .+=@,()-]")
_LONGEST = 100  # characters of a name made of an id


def result_paths(curation: Curation) -> dict[str, PurePosixPath]:
    """Relative path of each row's result, by id; none is another's on any file system.

    Names are given in the order of the listing, which only grows, so a later run changes none: the
    first of two that clash keeps its name.
    """
    paths: dict[str, PurePosixPath] = {}
    taken: set[str] = set()
    for shard in curation.shards:
        for row in curation.rows(shard, curation.stages[0]):
            if isinstance(row.picture, Stored):
                root = curation.sources[row.origin.source].root
                plain = _plain(row, PurePosixPath(row.picture.path.relative_to(root).as_posix()))
                path = next(path for path in _candidates(plain) if _fold(path) not in taken)
                taken.add(_fold(path))
                paths[row.id] = path
    return paths


def _plain(row: Row, file: PurePosixPath) -> PurePosixPath:
    """The picture's own path with .png; of a parquet row, its id or number in a folder."""
    if isinstance(row.picture, Stored) and row.picture.member:
        own = row.origin.key.removeprefix(f"{file}:")
        return file.with_suffix("") / f"{_ODD.sub('_', own)[:_LONGEST].strip('. ') or '_'}.png"
    return file.with_suffix(".png")


def _candidates(path: PurePosixPath) -> Iterator[PurePosixPath]:
    yield path
    yield from (path.with_name(f"{path.stem}-{number}.png") for number in count(2))


def _fold(path: PurePosixPath) -> str:
    """Equal for paths that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())
