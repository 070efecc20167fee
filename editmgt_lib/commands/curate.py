"""`editmgt curate CONFIG.toml`."""

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import say, show, shown
from .interrupts import working
from .options import add_common_options, path_of

if TYPE_CHECKING:
    from ..curation.run import Progress
    from ..curation.verdicts import StageTotals

REDRAWN, LOGGED = 0.2, 60.0  # seconds between two pictures of progress: on a terminal, in a log


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("curate", help="turn pictures into pairs for training, or resume")
    parser.add_argument("config", metavar="CONFIG", help="a TOML file, see docs/curation.md")
    parser.add_argument(
        "-o", "--out", metavar="DIR",
        help="output folder; a run in it goes on (default: CONFIG-curated)",
    )  # fmt: skip
    parser.add_argument("--stages", metavar="A,B", help="only these, by name (default: all)")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="as keep.images.short_side='>= 512'; repeatable (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="say what would be done and what it costs, and write nothing (default: no)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Curate; the same command resumes. Raises EditMGTError."""
    from ..curation.assembly import Curation
    from ..curation.config import load_config
    from ..curation.estimate import plan_lines
    from ..curation.run import curate, lacking, pipeline

    path = path_of(args.config)
    out = path_of(args.out) if args.out else path.with_name(f"{path.stem}-curated")
    stages = None
    if args.stages is not None:
        stages = [name.strip() for name in args.stages.split(",") if name.strip()]
        if not stages:
            raise InputError(f"stages is {args.stages!r}; name one, or leave it out for all")
    config = load_config(path, args.changes)
    working()
    if args.dry_run:
        plan = pipeline(config)
        names = tuple(stage.name for stage in plan)
        sources = {source.name: source for source in config.sources}
        for line in (*plan_lines(config, plan, Curation(out, sources, names)),
                     *lacking(config, plan)):  # fmt: skip
            show(shown(line))
        return 0
    live = LiveTable()
    found = curate(config, out, stages=stages, show=live.show, report=say)
    live.end()
    show(survival(found))
    show(shown(f"{out}; verdicts in {out / 'decisions'}"))
    return 0


def survival(totals: "list[StageTotals]") -> str:
    """The table of what became of the rows."""
    lines = [f"{'stage':<12}{'seen':>12}{'kept':>12}{'dropped':>12}{'failed':>12}  reasons"]
    for row in totals:
        reasons = ", ".join(f"{shown(reason)} {n:,}" for reason, n in row.reasons.items())
        numbers = "".join(f"{n:>12,}" for n in (row.seen, row.kept, row.dropped, row.failed))
        lines.append(f"{row.stage:<12}{numbers}  {reasons}".rstrip())
    return "\n".join(lines)


class LiveTable:
    """A line per stage, redrawn in place on a terminal, else written once a minute."""

    def __init__(self) -> None:
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._stage, self._drawn = "", 0.0

    def show(self, progress: "Progress") -> None:
        """As `curate` asks."""
        now, last = time.monotonic(), progress.done == progress.due
        new = progress.stage != self._stage
        if new:
            self.end()
            self._stage, self._drawn = progress.stage, now
        if not last and now - self._drawn < (REDRAWN if self._live else LOGGED):
            return
        self._drawn = now
        if self._live:
            print(f"\r\x1b[K{line_of(progress)}", end="", file=sys.stderr, flush=True)
        else:
            say(line_of(progress))

    def end(self) -> None:
        """Leave the last line standing."""
        if self._live and self._stage:
            print(file=sys.stderr)
        self._stage = ""


def line_of(progress: "Progress") -> str:
    """One line of the table."""
    from ..curation.estimate import duration
    from ..curation.rows import VERDICTS

    counts = ", ".join(f"{verdict} {progress.verdicts[verdict]:,}" for verdict in VERDICTS)
    left = "" if progress.left is None else f", {duration(progress.left)} left"
    return (
        f"{progress.stage}: {progress.done:,} of {progress.due:,} rows, {counts}, "
        f"{progress.rate:.1f} rows/s{left}"
    )
