"""Names, shapes and dtypes of a safetensors file, from its header and checked against its length.

No tensor is read, and torch is not needed. The format: 8 bytes of header length (little endian),
the header (a JSON object), then the tensors one after another without gaps.
"""

import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError

# Bits per element of every dtype name the format has had so far.
DTYPE_BITS = {
    "BOOL": 8,
    **{f"{kind}{bits}": bits for kind in "UI" for bits in (8, 16, 32, 64)},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "C128": 128},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


class TensorInfo(NamedTuple):
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def elements(self) -> int:
        """Numbers in the tensor."""
        return prod(self.shape)


def read_header(file: str | Path) -> dict[str, TensorInfo]:
    """Every tensor of one safetensors file, in file order.

    The header is checked in full: its length and the tensors' against the size of the file, offsets
    against shapes, no gap and no overlap.

    Raises CheckpointError naming the file and what is wrong with it.
    """
    file = Path(file)
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or not 2 <= length <= MAX_HEADER_BYTES or 8 + length > size:
                raise CheckpointError(_not_safetensors(file, start + stream.read(56), size))
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        entries = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _corrupt(file, str(error)) from error
    if not isinstance(entries, dict):
        raise _corrupt(file, "it is not a JSON object")
    entries.pop("__metadata__", None)
    return _check_layout(file, entries, size - 8 - length)


def _corrupt(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{file} has a corrupt header: {problem}; fetch the file again")


def _not_safetensors(file: Path, start: bytes, size: int) -> str:
    """Say what the file is instead, as far as its first bytes tell."""
    length = int.from_bytes(start[:8], "little")
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a Git LFS pointer, not the weights; fetch the content (git lfs pull)"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return f"{file} is a PyTorch file with a safetensors name; convert it to safetensors"
    if start.lstrip().startswith(b"<"):
        return f"{file} is a web page, not weights; fetch the file again"
    if size < 8:
        return f"{file} is truncated: it has {size} bytes; fetch it again"
    if 2 <= length <= MAX_HEADER_BYTES and start[8:9] in (b"{", b""):
        needed = 8 + length
        return (
            f"{file} is truncated: its header takes {needed} bytes, it has {size}; fetch it again"
        )
    return f"{file} is not a safetensors file or its start is corrupt; fetch it again"


def _check_layout(file: Path, entries: dict[str, Any], data_bytes: int) -> dict[str, TensorInfo]:
    spans = sorted((*_span(file, name, entry), name) for name, entry in entries.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise _corrupt(file, f"tensor {name} starts at byte {begin}, {position} is expected")
        position = end
    if position > data_bytes:
        raise CheckpointError(
            f"{file} is truncated: its tensors take {position} bytes, {data_bytes} are there; "
            "fetch it again"
        )
    if position < data_bytes:
        extra = data_bytes - position
        raise CheckpointError(
            f"{file} is corrupt: {extra} bytes follow its last tensor; fetch it again"
        )
    return {
        name: TensorInfo(tuple(entries[name]["shape"]), entries[name]["dtype"], end - begin)
        for begin, end, name in spans
    }


def _span(file: Path, name: str, entry: Any) -> tuple[int, int]:
    """First and past-the-last byte of a tensor, checked against its shape and dtype."""
    try:
        shape, dtype, (begin, end) = entry["shape"], entry["dtype"], entry["data_offsets"]
        sound = isinstance(shape, list) and isinstance(dtype, str)
        sound = sound and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound or begin > end:
        raise _corrupt(file, f"the entry of tensor {name} is malformed")
    bits = DTYPE_BITS.get(dtype)
    if bits is not None and prod(shape) * bits != (end - begin) * 8:
        raise _corrupt(
            file, f"tensor {name}, {dtype} {shape}, does not fit its {end - begin} bytes"
        )
    return begin, end
