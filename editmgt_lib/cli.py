"""`editmgt`: a command for each file of `commands` that `COMMANDS` names.

Exit codes: 0 done, 1 a defect of ours, 2 bad input (one line on the error stream says which value,
and the fix), 130 stopped by Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from . import __version__
from .commands import (
    benchmark,
    cache,
    compare,
    convert,
    curate,
    download,
    edit,
    evaluate,
    export,
    generate,
    info,
    lora,
    train,
)  # fmt: skip
from .commands.console import DEFECT, Parser, flush, report, say, warnings_as_lines
from .commands.interrupts import INTERRUPTED, is_interrupt
from .errors import InputError

COMMANDS = (
    edit,
    generate,
    info,
    download,
    convert,
    lora,
    cache,
    train,
    evaluate,
    benchmark,
    compare,
    curate,
    export,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; never raises, but for what Python itself needs."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    with suppress(AttributeError):  # a file name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("stopped")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DEFECT
    except Exception as error:
        if is_interrupt(error):
            say("stopped")
            return INTERRUPTED
        return report(error, "--debug" in arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        with warnings_as_lines():
            args = parse(arguments)
            code = args.run(args)
    except SystemExit as stop:  # --help and --version
        code = stop.code if isinstance(stop.code, int) else 0
    flush()  # here an error can still be reported
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; raises InputError for what no command knows."""
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse stops taking positional arguments at the first option after them: IN -o OUT "text".
    if rest and args.run is edit.run:
        args.inputs += rest
    elif rest:
        words = " ".join(rest)
        raise InputError(f"unknown argument {words}; put a text of several words in quotes")
    return args


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="editmgt", description="Edit pictures by instruction.")
    parser.add_argument("--version", action="version", version=f"editmgt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
