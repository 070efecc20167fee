"""`editmgt train RUN --out DIR`."""

import argparse
from typing import Any

from ..errors import InputError
from .console import say, show, shown
from .interrupts import working
from .options import add_common_options, add_device_option, given, path_of


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train a checkpoint or a LoRA, or resume one")
    parser.add_argument(
        "recipe", metavar="RUN",
        help="a TOML file, or a recipe such as toyworld-cpu",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", metavar="DIR", required=True,
        help="output folder; a run in it is resumed",
    )  # fmt: skip
    parser.add_argument("--stages", metavar="A,B", help="only these, by name (default: all)")
    parser.add_argument(
        "--set", dest="changes", action="append", metavar="KEY=VALUE",
        help="change a value, as edit.learning_rate=1e-5; repeatable (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", default=None,
        help="say what a run would take, and write nothing (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, metavar="X", help="per stage, above 0 (default: until done)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="per stage, from 1 up (default: the run's)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads, 1..4096 (default: torch's choice)"
    )
    parser.add_argument(
        "--compile", dest="compiled", action="store_true", default=None,
        help="torch.compile the transformer, for GPUs (default: the run's)",
    )  # fmt: skip
    add_device_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; the same command resumes. Raises EditMGTError."""
    for name, most in (("minutes", 10**6), ("steps", 10**9), ("threads", 4096)):
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            raise InputError(f"{name} is {value}; use a number above 0, up to {most}")
    names = "minutes", "steps", "threads", "device", "compiled", "changes", "dry_run"
    options = given(args, *names)
    if args.stages is not None:
        options["stages"] = [stage.strip() for stage in args.stages.split(",") if stage.strip()]
        if not options["stages"]:
            raise InputError(f"stages is {args.stages!r}; name one, or leave it out for all")
    from ..data.processes import this_process
    from ..training.commands import run_training

    working()
    made = run_training(args.recipe, path_of(args.out), report=say, **options)
    if not args.dry_run and this_process().rank == 0:
        use = "--lora" if made.suffix == ".safetensors" else "--model"
        show(shown(f"{made}; use it with {use} {made}"))
    return 0
