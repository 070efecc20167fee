"""`editmgt lora info FILE` and `editmgt lora extract BASE TUNED -o FILE`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from .console import say, show
from .interrupts import working
from .options import add_common_options, find_folder, path_of
from .outputs import Outputs

if TYPE_CHECKING:
    from ..lora import Lora

SUFFIX = ".safetensors"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("lora", help="look into a LoRA file, or make one")
    kinds = parser.add_subparsers(metavar="ACTION", required=True)
    info = kinds.add_parser("info", help="layers, rank, alpha, scope and metadata")
    info.add_argument("file", metavar="FILE", help="a LoRA file of ours, diffusers, peft or kohya")
    info.add_argument("--json", action="store_true", help="the same as JSON")
    add_common_options(info)
    info.set_defaults(run=_info)
    _add_extract(kinds)


def _add_extract(kinds: Any) -> None:
    extract = kinds.add_parser("extract", help="the difference of two checkpoints as a LoRA")
    extract.add_argument("base", metavar="BASE", help="the checkpoint the LoRA will be used on")
    extract.add_argument("tuned", metavar="TUNED", help="the fine-tuned one")
    extract.add_argument("-o", "--out", required=True, metavar="FILE", help=f"a {SUFFIX} file")
    extract.add_argument(
        "--rank", type=int, default=16, metavar="N", help="more keeps more of it (default: 16)"
    )
    extract.add_argument(
        "--overwrite", action="store_true", help="replace FILE if it exists (default: refuse)"
    )
    add_common_options(extract)
    extract.set_defaults(run=_extract)


def _info(args: argparse.Namespace) -> int:
    """Print what a file holds. Raises EditMGTError."""
    from ..lora import Lora

    lora = Lora.read(path_of(args.file))
    facts = _facts(lora)
    if args.json:
        show(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    metadata = facts.pop("metadata")
    for name, value in {**facts, **metadata}.items():
        show(f"  {name:<12} {', '.join(value) if isinstance(value, (list, tuple)) else value}")
    return 0


def _facts(lora: "Lora") -> dict[str, Any]:
    from ..lora import kinds_of

    return {
        "file": lora.where,
        "scope": lora.scope,
        "layers": len(lora.layers),
        "kinds": kinds_of(lora),
        "rank": lora.rank,
        "alpha": lora.alpha,
        "parameters": sum(x.down.numel() + x.up.numel() for x in lora.layers.values()),
        "notes": lora.notes,
        "metadata": dict(lora.metadata),
    }


def _extract(args: argparse.Namespace) -> int:
    """Write the file. Raises EditMGTError."""
    from ..checkpoints import read_state_dict
    from ..lora import extract

    folders = [find_folder(name) for name in (args.base, args.tuned)]
    target = Outputs([], args.overwrite).claim("--out", path_of(args.out), (SUFFIX,))
    working()
    lora = extract(*(read_state_dict(folder / "editmgt") for folder in folders), rank=args.rank)
    for note in lora.notes:
        say(note)
    lora.write(target)
    show(f"{target} holds {lora.metadata['kept']:.1%} of the difference, rank {lora.rank}")
    return 0
