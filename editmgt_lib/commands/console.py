"""What all commands share: the parser, one-line messages and progress bars."""

import argparse
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from unicodedata import category

from ..errors import EditMGTError, InputError

if TYPE_CHECKING:
    from tqdm import tqdm

BAD_INPUT, DEFECT = 2, 1
_LONGEST = 1000  # characters of a message; a prompt in it may have ten thousand


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError instead of leaving the program."""

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": _Formatter, "allow_abbrev": False} | options
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse an unknown option here, where the command and its options are known."""
        namespace, rest = super().parse_known_args(args, namespace)
        unknown = [word for word in rest if word.startswith("-") and len(word) > 1]
        if unknown:
            near = get_close_matches(unknown[0], self._option_string_actions, 1)
            advice = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unknown argument {' '.join(unknown)}{advice}")
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


class _Formatter(argparse.HelpFormatter):
    """Room for one option on one line."""

    def __init__(self, prog: str) -> None:
        width = max(100, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=26, width=width)


def say(text: str) -> None:
    """Print one line on the error stream, if there still is one."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"editmgt: {one_line(text)}", file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print a result; InputError where that fails, BrokenPipeError where nobody reads."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _no_output(error) from error


def flush() -> None:
    """Write out what others printed; errors as in `show`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _no_output(error) from error


def _no_output(error: OSError) -> InputError:
    with suppress(OSError, ValueError):  # or the interpreter's end fails at the same text again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return InputError(f"cannot write to standard output: {error.strerror}")


def shown(text: str | Path) -> str:
    """A text or path in one line, with escapes for what a terminal cannot show or would obey."""
    unsafe = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of UTF-16 pairs, line separators
    return "".join(
        char.encode("unicode_escape").decode() if category(char) in unsafe else char
        for char in str(text)
    )


def one_line(text: str) -> str:
    """The text without line breaks, its middle left out where it is very long."""
    lines = [shown(line.strip()) for line in str(text).splitlines() if line.strip()]
    joined = "".join(line + (" " if line.endswith((":", ";", ",")) else "; ") for line in lines)
    joined = joined.rstrip("; ")
    if len(joined) <= _LONGEST:
        return joined
    half = _LONGEST // 2
    return f"{joined[:half]} [...] {joined[-half:]}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names with commas between them, the first few of many."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([shown(name) for name in names[:most]] + more)


def report(error: Exception, debug: bool, about: str | Path = "") -> int:
    """Say what went wrong in one line, with a traceback only under --debug; gives the exit code.

    about: which of several inputs it happened to.
    """
    if debug:
        traceback.print_exception(type(error), error, error.__traceback__)
    about, name = str(about), shown(about)
    message = str(error).replace(about, name) if about else str(error)
    prefix = f"{name}: " if name and name not in message else ""
    if isinstance(error, EditMGTError):
        say(f"error: {prefix}{message}")
        return BAD_INPUT
    if isinstance(error, OSError) and error.filename is not None:  # the system's word on a file
        say(f"error: {prefix}cannot use {shown(os.fsdecode(error.filename))}: {error.strerror}")
        return BAD_INPUT
    hint = "" if debug else "; please report it, with what --debug adds"
    say(f"internal error: {prefix}{type(error).__name__}: {message}{hint}")
    return DEFECT


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show warnings meant for users (not those for programmers) as one line each, once each."""
    shown: set[str] = set()

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        text = f"warning: {message}"
        if category is UserWarning and text not in shown:
            shown.add(text)
            say(text)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


@contextmanager
def progress_bar(total: int | None, label: str, unit: str = "step") -> Iterator["tqdm"]:
    """A bar on the error stream; none where that is not a terminal."""
    from tqdm import tqdm

    options = {"unit_scale": True, "unit_divisor": 1000} if unit == "B" else {}
    with tqdm(
        total=total,
        desc=one_line(label),
        unit=unit,
        leave=False,
        disable=None,
        file=sys.stderr,
        **options,
    ) as bar:
        yield bar


def on_step(bar: "tqdm") -> Callable[[object], None]:
    """A sampling callback that moves the bar by one step."""

    def advance(_: object) -> None:
        bar.update(1)

    return advance
