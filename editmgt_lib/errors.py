"""The errors the library raises on purpose; anything else is a defect of ours.

Every message names the thing, the value that was given and the way to fix it.
"""


class EditMGTError(Exception):
    """Base of all deliberate errors; catch this to catch them all."""


class InputError(EditMGTError, ValueError):
    """A value given by the caller (option, picture, mask, prompt) cannot be used."""


class CheckpointError(EditMGTError):
    """A checkpoint folder is incomplete, corrupt, unsafe or contradicts its own config."""


class OutOfMemory(EditMGTError, MemoryError):
    """The device ran out of memory; the message says what to lower."""


class Cancelled(EditMGTError):
    """The caller's callback asked to stop; nothing of the run is kept."""
