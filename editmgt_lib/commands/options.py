"""Options that several commands have, and what becomes of them in the library."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import ATTENTIONS, DTYPES, OFFLOAD
from ..errors import InputError

if TYPE_CHECKING:
    from ..pipeline import EditMGT

OWN = "default: the checkpoint's"  # published values in brackets behind it

GENERATION = ("seed", "steps", "guidance")  # the sampling options of `generate`


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """--debug, which every command has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --lora and the options of `add_device_options`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", metavar="MODEL", default="toyworld",
        help="toyworld, a folder, a file, or a downloaded owner/name (default: toyworld)",
    )  # fmt: skip
    add_lora_option(group)
    add_device_options(group)


def add_lora_option(parser: Any) -> None:
    """--lora, which may be repeated."""
    parser.add_argument(
        "--lora", action="append", default=[], type=_lora, metavar="FILE[:X]",
        help="a LoRA file and its strength, -2..2 (default: 1); several add up",
    )  # fmt: skip


def _lora(text: str) -> tuple[Path, float]:
    """ "hats.safetensors:0.8" as a path and a strength."""
    name, _, number = text.rpartition(":")
    if name and not os.path.exists(path_of(text)) and re.fullmatch(r"[-+.\de]+", number):
        try:
            return path_of(name), float(number)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} has the strength {number}") from error
    return path_of(text), 1.0


def add_device_option(parser: Any) -> None:
    """--device."""
    parser.add_argument(
        "--device", type=plain, metavar="NAME", default="auto",
        help="cpu, cuda, cuda:1, mps or auto (default: auto)",
    )  # fmt: skip


def add_device_options(parser: Any) -> None:
    """--device, --dtype, --tf32, --attention and --offload."""
    add_device_option(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, metavar="NAME", default="auto",
        help=f"{', '.join(DTYPES[1:])} or auto (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--tf32", action="store_true",
        help="TF32 for float32 products on CUDA, the tokenizer's too (default: exact)",
    )  # fmt: skip
    parser.add_argument(
        "--attention", choices=ATTENTIONS, metavar="NAME", default="auto",
        help=f"kernel: {', '.join(ATTENTIONS[1:])} or auto (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--offload", choices=OFFLOAD, metavar="MODE", default="none",
        help="none; stages or layers use less GPU memory (default: none)",
    )  # fmt: skip


def add_sampling_options(parser: Any) -> None:
    """--seed, --steps, --guidance and --negative."""
    parser.add_argument(
        "--seed", type=int, metavar="N", help=f"0..2**64-1; same seed, same picture ({OWN} [0])"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help=f"sampling steps, 1..1000 ({OWN} [36])"
    )
    parser.add_argument(
        "--guidance", type=float, metavar="X", help=f"text guidance, 0..100; 1 is off ({OWN} [6])"
    )
    parser.add_argument("--negative", type=plain, metavar="TEXT", help=f"what to avoid ({OWN})")


def add_output_options(parser: argparse.ArgumentParser, out: str) -> None:
    """--out, --overwrite and --json."""
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help=out)
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace existing outputs (default: refuse one, skip those of several)",
    )  # fmt: skip
    add_json_option(parser, "one JSON object per picture, to FILE or the screen")


def add_json_option(parser: argparse.ArgumentParser, text: str) -> None:
    """--json [FILE]; the value is None without it and "-" without a file."""
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help=f"{text} (default: none)"
    )


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options of these names that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def plain(text: str) -> str:
    """An argument that is not a path; argparse reports one whose bytes are no valid text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8") from error
    return text


def text_of(args: argparse.Namespace, name: str) -> str:
    """A text argument; InputError when it says nothing or its bytes are no valid text."""
    text = getattr(args, name)
    if not text.strip():
        raise InputError(f"the {name} is empty; say what you want, as in 'make the sky red'")
    try:
        return plain(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"the {name} {error}; check the terminal's encoding") from error


def path_of(text: str) -> Path:
    """A path from the command line; a "~name" that is no user stays a file name."""
    return Path(os.path.expanduser(text))


def load_model(args: argparse.Namespace) -> "EditMGT":
    """The model of `add_model_options`."""
    from .. import load
    from ..lora import read_stack
    from .console import say

    stack = read_stack(getattr(args, "lora", ()))
    for lora, _ in stack:
        for note in lora.notes:
            say(note)
    return load(
        args.model, device=args.device, dtype=args.dtype, attention=args.attention,
        tf32=args.tf32, offload=args.offload, lora=stack,
    )  # fmt: skip


def find_folder(name: str) -> Path:
    """The folder or file of a checkpoint, complete or not."""
    from ..checkpoints import resolve
    from ..checkpoints.packed import is_packed

    folder = path_of(name)
    return folder if name and (os.path.isdir(folder) or is_packed(folder)) else resolve(name)
