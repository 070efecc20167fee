"""`editmgt evaluate MODEL`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import show
from .interrupts import working
from .options import add_common_options, add_device_options, add_json_option, load_model, path_of
from .outputs import RECORDS, Outputs
from .pace import Meter

if TYPE_CHECKING:
    from ..evaluation import Report


_NOTES = (
    "The short form of `editmgt benchmark toyworld`, without and with region-hold, that keeps no "
    "pictures."
)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate", help="measure a checkpoint on ToyWorld", description=_NOTES
    )
    parser.add_argument(
        "model", nargs="?", default="toyworld", metavar="MODEL",
        help="toyworld, or the folder of one trained on it (default: toyworld)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=int, default=30, metavar="N",
        help="held-out pairs per category, 1..100000 (default: 30)",
    )  # fmt: skip
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of pairs and edits, 0..2**32-1 (default: 0)",
    )
    add_json_option(parser, "all figures as JSON, to FILE or the screen")
    parser.add_argument("--sheet", metavar="FILE", help="draw a contact sheet (default: none)")
    parser.add_argument(
        "--sweep-threshold", metavar="FILE", help="plot success over the threshold (default: no)"
    )
    parser.add_argument(
        "--layers", action="store_true", help="localization quality per block (default: no)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist (default: refuse)"
    )
    add_device_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tables, or the JSON; write the files asked for. Raises EditMGTError."""
    from ..evaluation import EvaluationOptions, evaluate

    options = EvaluationOptions(
        samples=args.samples,
        seed=args.seed,
        sweep=args.sweep_threshold is not None,
        layers=args.layers,
    )
    files = _claimed(args)
    model = load_model(args)
    working()
    with Meter() as meter:
        report = evaluate(model, options, meter)
    _write(report, files)
    if args.json == "-":
        from ..files import json_bytes

        show(json_bytes(report.to_dict(), "the report").decode().rstrip())
    else:
        show(report.table())
    return 0


def _claimed(args: argparse.Namespace) -> dict[str, Path]:
    """The files to write, by option."""
    outputs = Outputs([], args.overwrite)
    wanted = {"--sheet": args.sheet, "--sweep-threshold": args.sweep_threshold}
    files = {
        option: outputs.claim(option, path_of(name))
        for option, name in wanted.items()
        if name is not None
    }
    if args.json not in (None, "-"):
        files["--json"] = outputs.claim("--json", path_of(args.json), RECORDS)
    return files


def _write(report: "Report", files: dict[str, Path]) -> None:
    from ..evaluation import contact_sheet, draw_curve, save_picture
    from ..files import atomic_write_json

    if "--json" in files:
        atomic_write_json(files["--json"], report.to_dict())
    if "--sheet" in files:
        save_picture(contact_sheet(report.rows), files["--sheet"])
    if "--sweep-threshold" in files and report.sweep is not None:
        save_picture(draw_curve(report.sweep), files["--sweep-threshold"])
