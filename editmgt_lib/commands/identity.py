"""When two names mean one file."""

import os
import unicodedata
from collections.abc import Hashable
from pathlib import Path

Listings = dict[str, frozenset[str]]


def fold(name: str) -> str:
    """Equal for names that some file system takes for one: case and Unicode form do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def identities(path: Path, listings: Listings) -> set[Hashable]:
    """Two paths that share an element are, or would become, one file.

    One element is the path as its folders spell it (FUSE gives every spelling an inode of its
    own), the other its inode (hard links and bind mounts have several spellings).

    listings: what folders hold, filled in on the way, so that each is read only once.
    """
    real = Path(os.path.realpath(path))
    there, missing = real, []
    while not os.path.lexists(there) and there != there.parent:
        missing.append(fold(there.name))
        there = there.parent
    # A missing name may be any spelling of it; one that is there with another spelling is found.
    beyond = tuple(("missing", name) for name in reversed(missing))
    found: set[Hashable] = {(*_spelled(there, listings), *beyond)}
    try:
        status = os.stat(there)
    except OSError:
        return found
    if status.st_ino:  # some file systems number nothing
        found.add((status.st_dev, status.st_ino, *beyond))
    return found


def _spelled(path: Path, listings: Listings) -> tuple[str, ...]:
    """The parts of an existing path, each as its folder lists it."""
    parts = [path.anchor]
    for parent, name in zip(reversed(path.parents), path.parts[1:], strict=True):
        names = _listing(parent, listings)
        if name not in names:
            name = min((other for other in names if fold(other) == fold(name)), default=name)
        parts.append(name)
    return tuple(parts)


def _listing(folder: Path, listings: Listings) -> frozenset[str]:
    key = os.fspath(folder)
    if key not in listings:
        try:
            listings[key] = frozenset(os.listdir(folder))
        except OSError:
            listings[key] = frozenset()
    return listings[key]
