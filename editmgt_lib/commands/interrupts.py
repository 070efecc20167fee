"""Ctrl-C. While a program starts it leaves at once; while it works it cleans up first."""

import os
import signal
from contextlib import suppress
from typing import Any

INTERRUPTED = 130


def starting() -> None:
    """Leave at once on Ctrl-C, until `working`.

    Import machinery and C extensions swallow or disguise a KeyboardInterrupt. Before the first
    file is begun there is nothing to clean up. A program told to ignore the signal still does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave_at_once)


def working() -> None:
    """Raise KeyboardInterrupt on Ctrl-C again: call it before the first file is begun."""
    if signal.getsignal(signal.SIGINT) is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_at_once(*_: Any) -> None:
    """End the process without unwinding it."""
    with suppress(OSError):  # the error stream may be closed
        os.write(2, b"editmgt: stopped\n")
    os._exit(INTERRUPTED)


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is the error, or what led to it."""
    link: BaseException | None = error
    for _ in range(100):  # chains can be made to loop
        if link is None or isinstance(link, KeyboardInterrupt):
            break
        link = link.__cause__ or link.__context__
    return isinstance(link, KeyboardInterrupt)
