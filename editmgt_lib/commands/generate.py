"""`editmgt generate "prompt" -o OUT`."""

import argparse
import re
from typing import Any

from ..errors import InputError
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
    add_output_options(parser, "picture to write (.png .jpg .webp), or a folder for several")
    add_model_options(parser)
    group = parser.add_argument_group("how")
    group.add_argument(
        "--size", metavar="SIZE", help=f"side, or WIDTHxHEIGHT, in pixels ({OWN} [1024])"
    )
    add_sampling_options(group)
    group.add_argument(
        "--count", type=int, default=1, metavar="N",
        help=f"pictures, 1..{MOST}, each with the next seed (default: 1)",
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the pictures one after the other. Raises EditMGTError."""
    size = _size(args.size)
    text_of(args, "prompt")
    if not 1 <= args.count <= MOST:
        raise InputError(f"count is {args.count}; use a whole number from 1 to {MOST}")
    from ..sampling.options import SamplingOptions

    SamplingOptions(**given(args, *GENERATION))
    outputs = Outputs([], args.overwrite)
    records = Records(args.json, outputs)
    names = [f"{number:04d}" for number in range(1, args.count + 1)]
    paths = [outputs.claim("--out", p) for p in place("--out", args.out, names, args.count > 1)]
    from .generating import generate_all

    try:
        generate_all(args, paths, size, records)
    finally:
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
