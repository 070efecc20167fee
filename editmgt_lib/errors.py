"""The errors the library raises on purpose; anything else is a defect of ours.

Every message names the thing, the value that was given and the way to fix it.
"""

import errno

# How devices without an error class of their own say that they are full.
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
    """Base of all deliberate errors; catch this to catch them all."""


class InputError(EditMGTError, ValueError):
    """A value given by the caller (option, picture, mask, prompt) cannot be used."""


class CheckpointError(EditMGTError):
    """A checkpoint folder is incomplete, corrupt, unsafe or contradicts its own config."""


class OutOfMemory(EditMGTError, MemoryError):
    """The device ran out of memory; the message says what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of the system, says that a device or the host is full."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _FULL)


class Cancelled(EditMGTError):
    """The caller's callback asked to stop; nothing of the run is kept."""
