"""`editmgt download [REPO] --to DIR`."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import progress_bar
from .interrupts import working
from .options import add_common_options, path_of

if TYPE_CHECKING:
    from tqdm import tqdm

REPO = "WeiChow/EditMGT"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("download", help="fetch a checkpoint from the Hugging Face Hub")
    parser.add_argument(
        "repo", nargs="?", default=REPO, metavar="REPO", help=f"owner/name (default: {REPO})"
    )
    parser.add_argument(
        "--to", metavar="DIR", help="where to put it (default: ~/.cache/editmgt/OWNER--NAME)"
    )
    parser.add_argument(
        "--revision", metavar="REV",
        help="commit, tag or branch (default: a pinned commit, or main)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch what is not there yet; the same call goes on after any failure. Raises EditMGTError."""
    if not args.to and os.path.expanduser("~") == "~":
        raise InputError("there is no home folder to download to; name a folder with --to")
    from ..checkpoints import hub

    working()
    folder = path_of(args.to) if args.to else hub.folder_for(args.repo)
    with progress_bar(None, args.repo, unit="B") as bar:
        done = hub.download(
            args.repo, folder=folder, revision=args.revision, progress=Meter(bar).show
        )
    print(f"{args.repo} is in {done}; use it with --model {done if args.to else args.repo}")
    return 0


class Meter:
    """The hub's progress on a bar."""

    def __init__(self, bar: "tqdm") -> None:
        self._bar = bar

    def show(self, name: str, done: int, total: int) -> None:
        """As `checkpoints.hub.Progress` asks."""
        self._bar.total = total
        self._bar.set_postfix_str(name, refresh=False)
        self._bar.update(done - self._bar.n)
