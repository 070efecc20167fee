"""`editmgt generate "prompt" -o OUT`."""

import argparse
import re
from typing import Any

from ..errors import InputError
from .console import say
from .options import (
    GENERATION,
    OWN,
    add_common_options,
    add_model_options,
    add_output_options,
    add_sampling_options,
    given,
    text_of,
)
from .outputs import Outputs, Records, place

MOST = 1000


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="make pictures from a text")
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture shows")
    add_output_options(parser, "output picture (.png .jpg .webp), or a folder for several")
    add_model_options(parser)
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--size", metavar="SIZE", help=f"side, or WIDTHxHEIGHT, in pixels ({OWN} [1024])"
    )
    add_sampling_options(group)
    group.add_argument(
        "--count", type=int, default=1, metavar="N",
        help=f"number of pictures, 1..{MOST}, seeds counting up (default: 1)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the pictures one after the other; several resume after a stop. Raises EditMGTError."""
    size = _size(args.size)
    text_of(args, "prompt")
    if not 1 <= args.count <= MOST:
        raise InputError(f"count is {args.count}; use a whole number from 1 to {MOST}")
    from ..sampling.options import SamplingOptions

    SamplingOptions(**given(args, *GENERATION))
    outputs = Outputs([], args.overwrite)
    several = args.count > 1
    records = Records(args.json, outputs, resume=several)
    names = [f"{number:04d}" for number in range(1, args.count + 1)]
    paths = place("--out", args.out, names, several)
    done = {path for path in paths if several and not args.overwrite and path.is_file()}
    for path in paths:
        outputs.claim("--out", path, resume=path in done)
    records.renew([], [path for path in paths if path not in done])
    if done:
        say(f"{len(done)} already done; add --overwrite to make them again")
        records.skip({"output": str(path)} for path in sorted(done))
    if len(done) < len(paths):
        from .generating import generate_all

        generate_all(args, paths, done, size, records)
    records.write()
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width from SIZE or WIDTHxHEIGHT."""
    if text is None:
        return None
    numbers = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip().lower())
    if not numbers:
        raise InputError(f"size is {text!r}; give a side as 512, or width and height as 512x384")
    width, height = int(numbers[1]), int(numbers[2] or numbers[1])
    return height, width
