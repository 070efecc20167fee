"""What made a run: weights, versions, device; and how two such statements differ."""

import hashlib
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import file_digest

_WEIGHTS = (".safetensors", ".bin", ".json", ".model")
_PACKAGES = ("torch", "transformers", "numpy", "pillow")
_STALE = 10.0  # seconds after which a lock, which is held for milliseconds, is a dead process's
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
    """Let one process at a time into the block; the lock of a killed one is broken."""
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            with suppress(OSError):
                if time.time() - lock.stat().st_mtime > _STALE:
                    lock.unlink()
            time.sleep(0.01)
        except OSError as error:
            raise InputError(f"cannot write {lock.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


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
    before, now = _listed(before), _listed(now)
    return [] if before == now else [f"{name} was {before!r} and is {now!r} now"]


def _listed(value: Any) -> Any:
    """Tuples as JSON gives them back."""
    return list(map(_listed, value)) if isinstance(value, (tuple, list)) else value
