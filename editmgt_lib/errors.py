"""Errors the library raises on purpose; any other is a bug.

Every message names the thing, the value given and the fix.
"""

import errno

# How out-of-memory errors read on devices without an error class of their own.
_FULL = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "allocate memory",  # the CPU's "can't allocate memory"
    "not enough memory",  # the CPU on Windows
    "not enough gpu video memory",  # DirectML
    "invalid buffer size",  # MPS, for one tensor larger than a buffer may be
    "alloc_failed",  # cuBLAS, cuDNN, rocBLAS
    "out_of_device_memory",  # XPU
    "out_of_host_memory",
    "out_of_resources",
)


class EditMGTError(Exception):
    """Base class of all deliberate errors."""


class InputError(EditMGTError, ValueError):
    """An argument (option, picture, mask, prompt) that cannot be used."""


class CheckpointError(EditMGTError):
    """A checkpoint that is incomplete, corrupt, unsafe or contradicts its own config."""


class OutOfMemory(EditMGTError, MemoryError):
    """The device is out of memory; the message says what to lower."""


def first_line(error: object) -> str:
    """The first line of what another library says went wrong, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(number: int, noun: str) -> str:
    """Format "1 line", "2,000 lines", for messages."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or the system means that a device or the host is full."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _FULL)


class Cancelled(EditMGTError):
    """The callback asked to stop; the run's result is discarded."""
