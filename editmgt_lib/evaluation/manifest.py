"""What made a run: weights, versions, device; and how two such statements differ."""

import errno
import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import file_digest

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

_WEIGHTS = (".safetensors", ".bin", ".json", ".model")
_PACKAGES = ("torch", "transformers", "numpy", "pillow")
_LENGTH = 16  # hexadecimal digits of a digest


def digest_of_texts(texts: Iterable[str]) -> str:
    """Fingerprint of texts in order."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\n")
    return total.hexdigest()[:_LENGTH]


def digest_of_files(place: Path) -> str:
    """Fingerprint of a checkpoint: all files of its folder that decide results, or its one file."""
    files = [place]
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix in _WEIGHTS)
    return _digest_of_files(place, tuple((path, *version_of(path)) for path in files))


def version_of(path: Path) -> tuple[int, int]:
    """Size and time of a file: what is cached about it holds as long as these do."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache
def _digest_of_files(place: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _, _ in files:
        total.update((path.relative_to(place).as_posix() if path != place else "").encode() + b"\n")
        file_digest(path, total)
    return total.hexdigest()[:_LENGTH]


def versions() -> dict[str, str]:
    """Versions of everything that computes."""
    from .. import __version__

    found = {"editmgt": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system frees the lock of a killed one.

    The file stays: if it were removed, two processes could hold a lock on one of two files each.
    """
    try:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {lock.parent}: {error.strerror}") from error
    try:
        try:
            _wait_for(file)
        except OSError as error:
            raise InputError(
                f"cannot lock {lock}: {error.strerror}; choose a folder on a file system with locks"
            ) from error
        yield
    finally:
        os.close(file)


def _wait_for(file: int) -> None:
    """Lock an open file until it is closed."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while True:
        try:
            return msvcrt.locking(file, msvcrt.LK_LOCK, 1)
        except OSError as error:
            if error.errno != errno.EDEADLK:  # what it raises after ten seconds of waiting
                raise


def device_name(device: Any) -> str:
    """Kind of a device, the same for all of a machine's: "cuda (NVIDIA H100)"."""
    import torch

    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Name every value of plain data that differs, as "sampling.steps is 36, now 8"."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        prefix = f"{name}." if name else ""
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{prefix}{key}")
        ]
    if isinstance(before, Mapping) and isinstance(now, (list, tuple)):
        before = list(before.items())  # how older runs keep LoRAs
    before, now = _listed(before), _listed(now)
    return [] if before == now else [f"{name} was {before!r} and is {now!r} now"]


def _listed(value: Any) -> Any:
    """Tuples as JSON gives them back."""
    return list(map(_listed, value)) if isinstance(value, (tuple, list)) else value
