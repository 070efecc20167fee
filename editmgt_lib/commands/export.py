"""`editmgt export CURATED --out DIR`."""

import argparse
from typing import TYPE_CHECKING, Any

from .console import progress_bar, show, shown
from .interrupts import working
from .options import add_common_options, path_of

if TYPE_CHECKING:
    from ..curation.export import Exported

ALLOW = "publish,train"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", help="write curated pairs as parquet, with a data card")
    parser.add_argument("curated", metavar="CURATED", help="a folder that `curate` wrote")
    parser.add_argument(
        "-o", "--out", metavar="DIR", required=True,
        help="folder of the data set; brought up to date if it is one",
    )  # fmt: skip
    parser.add_argument(
        "--allow", metavar="A,B", default=ALLOW,
        help=f"uses that source and editor must both allow, or none (default: {ALLOW})",
    )  # fmt: skip
    parser.add_argument(
        "--reverse", action="store_true",
        help="also swap the pictures of removals and additions (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--negatives", action="store_true",
        help="failed edits instead of pairs, which no reader takes for targets (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--preferences", action="store_true",
        help="only pairs with an edit that the judge liked less in both orders (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--megabytes", type=int, default=500, metavar="N",
        help="of a parquet file, about, 1..1900 (default: 500)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=int, default=12, metavar="N",
        help="rows of each verdict, reason and category to look at, 0..1000 (default: 12)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; the same command resumes. Raises EditMGTError."""
    from ..curation.export import ExportOptions, export

    uses = tuple(use.strip() for use in args.allow.split(",") if use.strip() not in ("", "none"))
    options = ExportOptions(
        uses, args.reverse, args.negatives, args.preferences, args.megabytes, args.samples
    )  # fmt: skip
    out = path_of(args.out)
    working()
    with progress_bar(None, "exporting", unit="shard") as bar:
        found = export(
            path_of(args.curated), out, options, lambda done, total: _move(bar, done, total)
        )
    show(summary(found))
    show(shown(f"{out}; begin with {out / 'README.md'} and {out / 'rows.html'}"))
    return 0


def _move(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def summary(found: "Exported") -> str:
    """Counts of what was exported, and of what was not."""
    rows = found.card["rows"]
    size = sum(file.size for file in found.files)
    lines = [
        f"{rows['exported']:,} of {rows['seen']:,} rows, {rows['reversed']:,} reversed, in "
        f"{len(found.files)} files of {size / 1e6:,.1f} MB in all"
    ]
    kinds = found.card["categories"].items()
    lines += [f"{shown(kind)}: {n['rows'] + n['reversed']:,}" for kind, n in kinds]
    lines += [f"not exported: {shown(k)}: {n:,}" for k, n in found.card["left_out"].items()]
    if found.card["stand_ins"]:
        names = ", ".join(map(shown, found.card["stand_ins"]))
        lines.append(f"this is no curated data set: {names} only stand in")
    return "\n".join(lines)
