"""Files that a reader never sees half of, and files of tensors with plain data in the header."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST_SUFFIX = 32  # bytes; anything longer is not a format


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; move it into place when the block succeeds.

    Missing parent folders are made. If the block raises, the temporary file is removed and an
    older `target` stays as it was. The temporary name is hidden, short, and keeps the suffix, from
    which some writers choose their format.

    Raises InputError if the target cannot be written: no permission, disk full, a name that is too
    long or a folder's.
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
    """Raise InputError if no file can have this name: it is a folder's, or too long."""
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
    """Write `data` as the whole content of `target`; errors as `atomic_path`."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return Path(target)


def atomic_write_json(target: str | Path, value: Any) -> Path:
    """Write `value` as indented UTF-8 JSON with a final newline.

    Raises InputError if JSON cannot hold it (tensors, NaN, infinities).
    """
    return atomic_write_bytes(target, json_bytes(value, str(target)))


def json_bytes(value: Any, what: str) -> bytes:
    """Encode `value` as indented UTF-8 JSON; the InputError if JSON cannot hold it names `what`."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot write {what} as JSON: {error}; use plain, finite values"
        ) from error


def write_tensors(
    target: str | Path, tensors: Mapping[str, "Tensor"], kind: str, plain: Mapping[str, Any]
) -> Path:
    """Write a safetensors file that holds `plain` as JSON in its header.

    kind: what the file holds, "tokens" say, and no other kind reads. InputError: see `atomic_path`.
    """
    import torch
    from safetensors.torch import save

    # Clones: the writer refuses views and tensors that share memory.
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return atomic_write_bytes(
        target, save(own, {"format": _tensor_format(kind), kind: json.dumps(plain)})
    )


@contextmanager
def open_tensors(
    path: str | Path, kind: str, device: Any = "cpu"
) -> Iterator[tuple[dict[str, "Tensor"], dict[str, Any]]]:
    """Give the tensors and the plain data `write_tensors` wrote.

    Raises InputError for any other file, also where the block cannot use what the file holds.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _tensor_format(kind):
                raise ValueError(f"its format is not {_tensor_format(kind)}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plain = json.loads(metadata[kind])
        yield tensors, plain
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; give one of saved {kind}") from error
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"cannot read {path} as saved {kind}: {error}; give a file that `save` wrote"
        ) from error


def _tensor_format(kind: str) -> str:
    return f"editmgt.{kind}.1"


def _flush_to_disk(path: Path) -> None:
    # Without this, a crash of the machine can leave an empty file under the final name.
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def file_digest(path: Path, checksum: Any = None) -> str:
    """Hexadecimal digest of a file: SHA-256, or that of `checksum` after what it holds already."""
    checksum = checksum or hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum.update(block)
    return checksum.hexdigest()
