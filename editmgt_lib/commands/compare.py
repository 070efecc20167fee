"""`editmgt compare RUN_A RUN_B --out DIR`."""

import argparse
from typing import Any

from .benchmark import compare_runs, setting
from .options import add_common_options

_NOTES = "Paired differences of two runs of `editmgt benchmark` over the same items."


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compare", help="compare two benchmark runs, item by item", description=_NOTES
    )
    parser.add_argument("first", metavar="RUN_A", help="folder of a run, or of a part of one")
    parser.add_argument("second", metavar="RUN_B", help="another; differences are B minus A")
    parser.add_argument(
        "-o", "--out", metavar="DIR", required=True,
        help="folder for compare.md, compare.json and compare.html",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", metavar="A,B", help="by name (default: all, which both runs must have)"
    )
    parser.add_argument(
        "--report", action="append", default=[], type=setting, metavar="OPTION=VALUE",
        help="option of the report, as pictures=link (default: none)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the three files. Raises EditMGTError."""
    return compare_runs(args, args.first, args.second)
