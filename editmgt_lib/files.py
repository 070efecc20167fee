"""Writing files so that a reader never sees half of one."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import InputError

_LONGEST_SUFFIX = 32  # bytes; beyond that it is no format


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; move it into place when the block succeeds.

    Missing parent folders are made. If the block raises, the temporary file is removed and an
    older `target` stays as it was. The temporary name is hidden and short, whatever the target's,
    and keeps the suffix, since some writers choose their format by it.

    Raises InputError when the place cannot be written: no permission, disk full, a name that is
    too long or a folder's.
    """
    target = Path(target)
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""
    temporary = target.with_name(f".{uuid4().hex[:16]}.tmp{suffix}")
    require_file_name(target)
    try:
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


def require_file_name(target: str | Path) -> None:
    """Raise InputError where no file can have this name: a folder has it, or it is too long."""
    try:
        mode = os.stat(target).st_mode
    except ValueError as error:
        raise InputError(f"cannot write {str(target)!r}: {error}; choose another name") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"cannot write {target}: {error.strerror}; choose a shorter name"
            ) from error
        return
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot write {target}: a folder has this name; choose another")


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
