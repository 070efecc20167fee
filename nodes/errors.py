"""How errors reach the user."""

from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker

from ..editmgt_lib.errors import EditMGTError


def name_errors() -> None:
    """Let our errors read "EditMGT.InputError".

    ComfyUI writes a class's module before the message, and that of a pack starts with its path.
    """
    for kind in (EditMGTError, *EditMGTError.__subclasses__()):
        kind.__module__ = "EditMGT"


def blocked(message: str) -> Any:
    """An output value that stops only those who use it, with this message."""
    return ExecutionBlocker(message)
