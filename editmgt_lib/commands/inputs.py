"""Which pictures a run edits, and what their results are called."""

import os
import stat
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from ..errors import InputError
from ..pictures.formats import READABLE
from .console import shown
from .identity import Listings, fold, identities

_UNREADABLE = (
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".xcf", ".eps", ".ico", ".icns",
    ".tga", ".pcx", ".dds", ".qoi", ".exr", ".hdr", ".apng", ".ppm", ".pgm", ".pbm", ".pnm",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)  # fmt: skip


@dataclass
class Inputs:
    """The pictures of one run.

    pictures: in order, each once; folders: those they were found in; skipped: names of what looks
    like a picture and is not edited; problems: the arguments that gave none, and why.
    """

    pictures: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[tuple[Path, InputError]] = field(default_factory=list)


def collect(paths: Iterable[Path], mask: Path | None) -> Inputs:
    """Look for the pictures; a mask that lies in a folder of pictures is none of them."""
    found, listings = Inputs(), Listings()
    seen: set[Hashable] = set()
    masks = identities(mask, listings) if mask is not None else set()
    for path in paths:
        try:
            pictures = _in_folder(path, found) if os.path.isdir(path) else [_file(path)]
        except InputError as error:
            found.problems.append((path, error))
            continue
        for picture in pictures:
            spelling = (os.path.realpath(picture.parent), picture.name)
            if picture is not path and masks & identities(picture, listings):
                found.skipped.append(f"{picture.name} (the mask)")
            elif spelling not in seen:
                seen.add(spelling)
                found.pictures.append(picture)
    return found


def _file(path: Path) -> Path:
    try:
        there = stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError as error:
        raise _closed(path, error) from error
    except OSError:  # also a text that is too long to be a name
        there = False
    if not there:
        raise InputError(f"there is no picture {shown(path)}; check the name")
    return path


def _closed(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot read {shown(path)} ({error.strerror}); check its permissions")


def _in_folder(folder: Path, found: Inputs) -> list[Path]:
    """The pictures of a folder by name, without those hidden and those of its sub-folders."""
    try:
        files = [folder / name for name in sorted(os.listdir(folder)) if name[0] != "."]
        for file in files[:1]:
            os.lstat(file)  # a folder may be listed and yet not entered
    except OSError as error:
        raise _closed(folder, error) from error
    found.folders.append(folder)
    readable = [f for f in files if f.suffix.lower() in READABLE and not os.path.isdir(f)]
    others = [f for f in files if f.suffix.lower() in _UNREADABLE and os.path.isfile(f)]
    broken = [f for f in readable if not os.path.isfile(f)]
    found.skipped += [file.name for file in others + broken]
    pictures = [f for f in readable if os.path.isfile(f)]
    if not pictures:
        raise InputError(f"the folder {shown(folder)} holds no picture ({', '.join(READABLE)})")
    return pictures


def result_names(sources: Sequence[Path]) -> list[str]:
    """A name without suffix for the result of each source, all different on any file system.

    A name is the source's own stem; where several have one stem, a .png keeps it (or else the
    first), and the others become as a.jpg -> "a.jpg", or "a-2".
    """
    names: dict[int, str] = {}
    taken: set[str] = set()

    def take(number: int, candidates: Iterator[str]) -> None:
        name = next((c for c in candidates if fold(c) not in taken), None)
        if name is not None:
            names[number] = name
            taken.add(fold(name))

    order = sorted(range(len(sources)), key=lambda k: sources[k].suffix.lower() != ".png")
    for number in order:
        take(number, iter([sources[number].stem]))
    for number in order:
        if number not in names:
            take(number, _alternatives(sources[number]))
    return [names[number] for number in range(len(sources))]


def _alternatives(source: Path) -> Iterator[str]:
    whole = [] if source.suffix.lower() == ".png" else [source.name]
    return chain(whole, (f"{source.stem}-{number}" for number in count(2)))
