"""Ctrl-C and SIGTERM during training: finish the step and save first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + 15  # exit status after SIGTERM


@contextmanager
def deferred_signals() -> Iterator[Callable[[], int]]:
    """Record the first Ctrl-C or SIGTERM, whose number the function given reports, else 0.

    A second Ctrl-C raises. Does nothing outside the main thread, or for a signal that the program
    handles itself.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received.append(number)

    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    taken = [number for number, usual in ours.items() if signal.getsignal(number) is usual]
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number in taken:
            signal.signal(number, ours[number])


def stopped(number: int) -> BaseException:
    """The exception that ends a program stopped by a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED)
