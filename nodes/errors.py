"""How errors reach the user."""

from collections.abc import Callable
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


def verdict(check: Callable[[Any], object], value: Any) -> bool | str:
    """What `validate_inputs` returns: True, or what is wrong; None is linked, and known later."""
    try:
        if value is not None:
            check(value)
    except EditMGTError as error:
        return str(error)
    return True
