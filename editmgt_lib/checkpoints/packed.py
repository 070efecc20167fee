"""A checkpoint in one safetensors file, read by paths that lead into it.

`m.safetensors` stands for the checkpoint's folder, so `m.safetensors/vqvae/config.json` is a file
in it and `m.safetensors/vqvae` a folder of weights: what reads a checkpoint need not know which
kind it has. A weight NAME of `vqvae/` is the tensor `vqvae.NAME`; any other file is a tensor of
bytes, `files/vqvae/config.json`. Not metadata, since Gemma's tokenizer has 17 MB and headers are
read just to list files.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from ..errors import CheckpointError

SUFFIX = ".safetensors"
FORMAT = "editmgt.model.1"
FILES = "files/"
_Content = TypeVar("_Content")


def split(path: str | Path) -> tuple[Path, str] | None:
    """The safetensors file that a path leads into and the path inside it; None if into none."""
    path = Path(path)
    for file in path.parents:
        if file.suffix == SUFFIX and os.path.isfile(file):
            return file, path.relative_to(file).as_posix()
    return None


def is_packed(file: str | Path) -> bool:
    """Whether a file's header says that it is a checkpoint; only the header is read."""
    from safetensors import SafetensorError, safe_open

    if Path(file).suffix != SUFFIX or not os.path.isfile(file):
        return False
    with suppress(OSError, SafetensorError), safe_open(str(file), framework="numpy") as opened:
        return (opened.metadata() or {}).get("format") == FORMAT
    return False


def names(file: Path) -> list[str]:
    """Names of the files inside, weights apart. Raises CheckpointError if it is no checkpoint."""
    return read_file(file, _names)


def exists(path: str | Path) -> bool:
    """Whether a file is there, on disk or inside a packed one."""
    inside = split(path)
    return inside[1] in names(inside[0]) if inside else os.path.exists(path)


def read_bytes(path: str | Path) -> bytes:
    """Read a file, on disk or inside a packed one.

    Raises OSError as `Path.read_bytes` does, CheckpointError for a broken packed file.
    """
    path = Path(path)
    inside = split(path)
    if inside is None:
        return path.read_bytes()
    if inside[1] not in names(inside[0]):
        raise FileNotFoundError(f"{path} is missing")
    return read_file(inside[0], lambda file: _tensor_bytes(file, inside[1]))


def sizes(file: Path, part: str) -> dict[str, int]:
    """Bytes of a part's files, and of its tensors together as `tensors`; empty if it has none."""
    found: dict[str, int] = {}
    for name, (start, end) in _offsets(file).items():
        if name.startswith((f"{FILES}{part}/", f"{part}.")):
            own = name.rpartition("/")[2] if name.startswith(FILES) else "tensors"
            found[own] = found.get(own, 0) + end - start
    return found


@contextmanager
def on_disk(folder: Path) -> Iterator[Path]:
    """Give a folder's files, weights apart, as a real folder; a temporary one if it is packed."""
    inside = split(folder)
    if inside is None:
        yield folder
        return
    file, part = inside
    with TemporaryDirectory(prefix="editmgt-") as temporary:
        for name in names(file):
            if name.startswith(f"{part}/"):
                (Path(temporary) / Path(name).name).write_bytes(read_bytes(file / name))
        yield Path(temporary)


def read_file(file: Path, read: Callable[[Path], _Content]) -> _Content:
    """What `read` gives of a safetensors file. Raises CheckpointError saying what it is instead."""
    try:
        return read(file)
    except CheckpointError:
        raise
    except Exception as error:  # the reader raises kinds of its own and of Python
        raise CheckpointError(_unreadable(file, error)) from error


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(str(file), framework="numpy") as opened:
        form = (opened.metadata() or {}).get("format")
        if form != FORMAT:
            raise CheckpointError(_foreign(file, form))
        found = [name for name in opened.keys() if name.startswith(FILES)]  # noqa: SIM118
        return [name.removeprefix(FILES) for name in found]


def _foreign(file: Path, form: str | None) -> str:
    if form and form.startswith(FORMAT.rpartition(".")[0]):
        return f"{file} has the format {form}, this version reads {FORMAT}; update EditMGT"
    return (
        f"{file} is not a whole EditMGT checkpoint; give a folder, or a file written by "
        "`editmgt convert`"
    )


def _offsets(file: Path) -> dict[str, tuple[int, int]]:
    with open(file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}


def _tensor_bytes(file: Path, name: str) -> bytes:
    from safetensors import safe_open

    with safe_open(str(file), framework="numpy") as opened:
        return opened.get_tensor(FILES + name).tobytes()


def _unreadable(file: Path, error: Exception) -> str:
    """Say what the file is instead, as far as its first bytes tell."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(64)
    except OSError as refused:  # the reader calls everything "no such file"
        return f"cannot read {file}: {refused.strerror or refused}"
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a Git LFS pointer, not the weights; fetch the content (git lfs pull)"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return f"{file} is a PyTorch file with a safetensors name; convert it to safetensors"
    if start.lstrip().startswith(b"<"):
        return f"{file} is a web page, not weights; fetch the file again"
    return f"cannot read {file}: {error}; it may be truncated or corrupt, fetch it again"
