"""`editmgt edit` over a list, parquet files, or a folder tree with --engine."""

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import BAD_INPUT, say, show, shown
from .interrupts import working
from .options import given, path_of, text_of

if TYPE_CHECKING:
    from ..curation.backends.registry import Backends
    from ..curation.engine import EngineOptions

LISTS = (".jsonl", ".csv", ".parquet")
_SINGLE = {
    "mask": None, "combine": None, "feather": 0.0, "attention_out": None, "changed_out": None,
    "json": None, "overwrite": False, "compile": False, "attention": "auto",
}  # fmt: skip
"""Options for a few pictures, and their defaults."""
_MODEL = ("steps", "guidance", "strength", "threshold", "hold_rule", "guidance_interval", "reuse",
          "refresh")  # fmt: skip


def add_bulk_options(group: Any) -> None:
    """--engine, --workers, --gpus, --address and --editors."""
    group.add_argument(
        "--engine", choices=("local", "ray"), metavar="NAME",
        help="local or ray, over a folder tree (default: for lists and parquet, local)",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=int, metavar="N", help="threads, or actors of Ray, 1..4096 (default: 1)"
    )
    group.add_argument(
        "--gpus", type=float, metavar="X",
        help="cards of an actor of Ray, 0..64 (default: 1 if there is any here, else 0)",
    )  # fmt: skip
    group.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster that runs (default: starts one here)"
    )
    group.add_argument(
        "--editors", metavar="FILE",
        help="editors and judges as curate has them, not --model (default: no)",
    )  # fmt: skip


def is_bulk(args: argparse.Namespace) -> bool:
    """Whether the inputs are for `run`."""
    first = path_of(args.inputs[0])
    if args.engine is not None:
        return True
    if os.path.isdir(first):
        with os.scandir(first) as found:
            return any(entry.name.lower().endswith(".parquet") for entry in found)
    return first.suffix.lower() in LISTS


def run(args: argparse.Namespace) -> int:
    """Edit; the same command resumes. Raises EditMGTError."""
    from ..curation.bulk import RESULTS, edit_all
    from ..curation.edits import EditOptions, EditStage
    from ..curation.sources import SourceConfig
    from .curate import LiveTable

    for name, default in _SINGLE.items():
        if getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} is for single pictures; leave it out")
    path, instruction = _split(args)
    source = SourceConfig("pictures", os.fspath(path))
    seed = 0 if args.seed is None else args.seed
    backends = _backends(args)
    stage = EditStage(backends.editors, backends.judges, EditOptions(0, seed=seed))
    working()
    live = LiveTable()
    found = edit_all(
        source, instruction, stage, path_of(args.out), _engine(args),
        show=live.show, report=say,
    )  # fmt: skip
    live.end()
    out = path_of(args.out)
    reasons = "".join(f"; {shown(reason)} {n:,}" for reason, n in found.reasons.items())
    show(f"{found.kept:,} edited, {found.failed:,} failed{reasons}")
    show(shown(out / RESULTS))
    return BAD_INPUT if found.failed else 0


def _split(args: argparse.Namespace) -> tuple[Path, str]:
    """The one input, and the instruction for rows without their own."""
    first, *rest = args.inputs
    if len(rest) > 1:
        raise InputError(
            f"there are {len(rest)} inputs; edit one folder, list or parquet file at a time"
        )
    path = path_of(first)
    if not rest and not (path.suffix.lower() in LISTS or os.path.isdir(path)):
        raise InputError(f"only {first!r} is given; give pictures, then what to do in quotes")
    if not os.path.isdir(path) and path.suffix.lower() not in LISTS:
        raise InputError(
            f"{shown(first)} is no folder, list (.jsonl, .csv) or parquet file; leave out --engine"
        )
    if not rest:
        return path, ""
    args.instruction = rest[0]
    return path, text_of(args, "instruction")


def _engine(args: argparse.Namespace) -> "EngineOptions":
    from ..curation.bulk import SHARD_ROWS
    from ..curation.engine import EngineOptions

    executor = args.engine or "local"
    for name in ("gpus", "address"):
        if executor == "local" and getattr(args, name) is not None:
            raise InputError(f"--{name} is for --engine ray; leave it out")
    pool = {"gpus": _gpus(args)} if executor == "ray" else {}
    return EngineOptions(
        executor, workers=1 if args.workers is None else args.workers, shard_rows=SHARD_ROWS,
        pools={"edits": pool}, address=args.address or "",
    )  # fmt: skip


def _gpus(args: argparse.Namespace) -> float:
    if args.gpus is not None:
        return args.gpus
    import torch

    return float(torch.cuda.is_available() and not args.device.startswith("cpu"))


def _backends(args: argparse.Namespace) -> "Backends":
    from ..curation.backends import read_backends
    from ..tables import read_toml

    model = _model_table(args)
    if args.editors is not None:
        defaults = {"model": "toyworld", "device": "auto", "dtype": "auto", "offload": "none",
                    "fit": "pad"}  # fmt: skip
        for name, value in model.items():
            if name != "kind" and value != defaults.get(name):
                raise InputError(f"{name} is given beside --editors; write it into that file")
        read = read_toml(path_of(args.editors))
        tables = {role: read.get(role, {}) for role in ("editors", "judges")}
    else:
        tables = {"editors": {"editmgt": model}}
    backends = read_backends(tables)
    backends.check()
    if not backends.editors:
        raise InputError(f"--editors is {args.editors}, which names none; add [editors.NAME]")
    return backends


def _model_table(args: argparse.Namespace) -> dict[str, Any]:
    """The table of our own model, as it would stand in a file."""
    from ..sampling.options import FAST, SamplingOptions

    known = {field.name for field in fields(SamplingOptions)}
    options: dict[str, Any] = {**(FAST if args.fast else {}), **given(args, *_MODEL)}
    SamplingOptions(**{k: v for k, v in options.items() if k in known})
    if args.words is not None:
        options["words"] = tuple(word.strip() for word in args.words.split(",") if word.strip())
    table: dict[str, Any] = {
        "kind": "editmgt", "model": args.model, "device": args.device, "dtype": args.dtype,
        "offload": args.offload, "fit": args.fit,
    }  # fmt: skip
    more = {
        "negative": args.negative,
        "options": options,
        "lora": [[str(file), strength] for file, strength in args.lora],
    }
    return table | {name: value for name, value in more.items() if value}
