"""`editmgt convert MODEL -o FILE`."""

import argparse
from typing import Any

from ..choices import PACKED_DTYPES
from .console import progress_bar
from .download import Meter
from .info import size
from .interrupts import working
from .options import add_common_options, add_lora_option, find_folder, path_of
from .outputs import Outputs

SUFFIX = ".safetensors"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("convert", help="write a checkpoint as one smaller file")
    parser.add_argument(
        "model", metavar="MODEL", help="toyworld, a folder, a file, or a downloaded owner/name"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help=f"the {SUFFIX} file to write"
    )
    usual = PACKED_DTYPES[0]
    parser.add_argument(
        "--dtype", choices=PACKED_DTYPES, default=usual,
        help=f"fp8: 8 bits with scales; keep: as it is (default: {usual})",
    )  # fmt: skip
    add_lora_option(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE if it exists (default: refuse)"
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file. Raises EditMGTError."""
    from ..checkpoints import pack
    from ..lora import merged, read_stack

    source = find_folder(args.model)
    outputs = Outputs([source] if source.is_file() else [], args.overwrite)
    target = outputs.claim("--out", path_of(args.out), (SUFFIX,))
    stack = read_stack(args.lora)
    working()
    with progress_bar(None, target.name, unit="B") as bar:
        pack(source, target, args.dtype, Meter(bar).show, lambda state: merged(state, stack))
    print(f"{target} has {size(target.stat().st_size)}; use it with --model {target}")
    return 0
