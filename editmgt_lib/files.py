"""Writing files so that a reader never sees half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import InputError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; move it into place when the block succeeds.

    Missing parent folders are made. If the block raises, the temporary file is removed and an
    older `target` stays as it was. The temporary name is hidden and keeps the suffix of `target`,
    since some writers choose their format by it.

    Raises InputError when the place cannot be written: no permission, disk full, a folder of
    that name.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.stem}.{uuid4().hex}.tmp{target.suffix}")
    try:
        if target.is_dir():
            raise InputError(f"cannot write {target}: a folder has this name; choose another")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}; "
            "choose a folder that can be written and has room"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(target: str | Path, data: bytes) -> Path:
    """Write `data` as the whole content of `target`; see `atomic_path` for what can go wrong."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return Path(target)


def atomic_write_json(target: str | Path, value: Any) -> Path:
    """Write `value` as indented UTF-8 JSON ending in a newline.

    Raises InputError when `value` holds something JSON has no form for (tensors, NaN, infinities).
    """
    return atomic_write_bytes(target, json_bytes(value, str(target)))


def json_bytes(value: Any, what: str) -> bytes:
    """`value` as indented UTF-8 JSON; `what` names it in the InputError if that cannot be."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot write {what} as JSON: {error}; give plain finite values"
        ) from error


def _flush_to_disk(path: Path) -> None:
    # Without this a crash of the machine can leave an empty file under the final name.
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
