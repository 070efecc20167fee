"""`editmgt edit IN... "instruction" -o OUT`; for lists and parquet files see `bulk`."""

import argparse
import os
from pathlib import Path
from typing import Any

from ..choices import COMBINATIONS, FITS, HOLD_RULES, REUSES
from ..errors import InputError
from . import bulk
from .console import listed, say, shown
from .inputs import Inputs, collect, result_names
from .interrupts import working
from .options import (
    OWN,
    add_common_options,
    add_model_options,
    add_output_options,
    add_sampling_options,
    path_of,
    plain,
)
from .outputs import Failures, Job, Outputs, Records, place

_USAGE = 'editmgt edit IN [IN ...] "INSTRUCTION" -o OUT [options]'
_NOTES = (
    "IN is a picture or a folder of pictures (not recursive); with several, OUT is a folder, and "
    "running the same command again resumes. Outside the changed area an output equals its input "
    "bit for bit (.png, .webp). Options left out keep the checkpoint's own values (in brackets: "
    "the published checkpoint's). IN may also be one list (.jsonl, .csv) or parquet file, whose "
    "rows may have an instruction each, or with --engine a folder tree: see docs/curation.md."
)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "edit", help="edit pictures by instruction", usage=_USAGE, description=_NOTES
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures, then the instruction")
    add_output_options(parser, "output picture (.png .jpg .webp), or a folder for several")
    add_model_options(parser)
    group = parser.add_argument_group("sampling")
    add_sampling_options(group)
    group.add_argument(
        "--strength", type=float, metavar="X",
        help=f"weight of the original picture, 0.01..100 ({OWN} [1.1])",
    )  # fmt: skip
    group.add_argument(
        "--fit", choices=FITS, default="pad", metavar="MODE",
        help="pad, native (keep the shape) or crop (around the mask) (default: pad)",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true",
        help="torch.compile: a slow first step, faster ones after it (default: no)",
    )  # fmt: skip
    _add_region_options(parser.add_argument_group("region"))
    _add_speed_options(parser.add_argument_group("faster, approximate (see benchmarks/README.md)"))
    bulk.add_bulk_options(parser.add_argument_group("many pictures"))
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_region_options(group: Any) -> None:
    group.add_argument(
        "--threshold", type=float, metavar="X",
        help=f"lambda: hold what matters less, 0..1, 0: off ({OWN} [0])",
    )  # fmt: skip
    group.add_argument(
        "--words", type=plain, metavar="WORDS",
        help=f"relevance to these, comma-separated ({OWN} [all])",
    )  # fmt: skip
    group.add_argument(
        "--hold-rule", choices=HOLD_RULES, metavar="RULE",
        help=f"proposal or restore ({OWN} [proposal])",
    )  # fmt: skip
    group.add_argument(
        "--mask", metavar="FILE", help="only its white area may change (default: no mask)"
    )
    group.add_argument(
        "--combine", choices=COMBINATIONS, metavar="HOW",
        help="mask with threshold: intersection or union (default: intersection)",
    )  # fmt: skip
    group.add_argument(
        "--feather", type=float, default=0.0, metavar="PIXELS",
        help="blend the edge of the change, 0..8192 (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--attention-out", metavar="OUT", help="also write the relevance map (default: no)"
    )
    group.add_argument(
        "--changed-out", metavar="OUT", help="also write the mask of what may differ (default: no)"
    )


def _add_speed_options(group: Any) -> None:
    group.add_argument(
        "--fast", action="store_true",
        help="a preset of the options below, which override it (default: no)",
    )  # fmt: skip
    group.add_argument(
        "--reuse", choices=REUSES, metavar="WHAT",
        help=f"cache none, reference or known tokens ({OWN} [none])",
    )  # fmt: skip
    group.add_argument(
        "--refresh", type=int, metavar="K",
        help=f"recompute the cache every K steps, 1..1000 ({OWN} [8])",
    )  # fmt: skip
    group.add_argument(
        "--guided", dest="guidance_interval", type=_interval, metavar="A,B",
        help=f"guide only this part of the run, 0..1 ({OWN} [0,1])",
    )  # fmt: skip


def _interval(text: str) -> tuple[float, float]:
    """ "0,0.5" as numbers."""
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        first = last = float("nan")
    if not 0 <= first <= last <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of 0..1; write it as 0,0.5")
    return first, last


def run(args: argparse.Namespace) -> int:
    """Edit every input; one that fails is reported and the others go on.

    A run of several resumes after a stop: pictures whose outputs exist are left alone.
    Raises EditMGTError for what concerns all of them; nothing is written then.
    """
    if bulk.is_bulk(args):
        return bulk.run(args)
    for option in ("workers", "gpus", "address", "editors"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} is for many pictures; add --engine local or --engine ray")
    paths, args.instruction = _split(args.inputs)
    several = len(paths) > 1 or os.path.isdir(paths[0])
    mask = None if args.mask is None else path_of(args.mask)
    inputs = collect(paths, mask)
    protected = [*inputs.pictures, mask] if mask else inputs.pictures
    outputs = Outputs(protected, args.overwrite, inputs.folders)
    records = Records(args.json, outputs, resume=several)
    failures = Failures(args.debug, records)
    jobs = _jobs(args, inputs.pictures, several)
    resumed = several and not args.overwrite
    done = [job for job in jobs if resumed and job.done]
    to_do = [job for job in jobs if not (resumed and job.done)]
    records.renew([*paths, *inputs.pictures], [job.out for job in to_do])
    for path, error in inputs.problems:
        with failures.of(path):
            raise error
    _say_what_differs(inputs, jobs if several else [], len(done))
    done = _claimed(done, outputs, failures, resume=True)
    to_do = _claimed(to_do, outputs, failures)
    records.skip({"input": str(job.source), "output": str(job.out)} for job in done)
    if to_do:
        _edit_all(to_do, args, records, failures)
    records.write()
    return failures.code


def _edit_all(
    jobs: list[Job], args: argparse.Namespace, records: Records, failures: Failures
) -> None:
    from .editing import Request, Session

    session = Session(Request.of(args), args)
    working()
    records.write()
    for number, job in enumerate(jobs, 1):
        label = f"{number}/{len(jobs)} {job.source.name}" if len(jobs) > 1 else "editing"
        record = None
        with failures.of(job.source):
            record = session.edit(job, label)
        if record is not None:
            records.add(record, f"{job.out}  {record['changed']:.1%} may differ")


def _split(words: list[str]) -> tuple[list[Path], str]:
    """Inputs and the instruction behind them."""
    if len(words) < 2:
        raise InputError(f"only {words[0]!r} is given; give pictures, then what to do in quotes")
    if os.path.isfile(words[-1]):  # unlike Path.is_file, False for a text of any length
        raise InputError(f"the last argument is the file {shown(words[-1])}; end with what to do")
    return [path_of(word) for word in words[:-1]], words[-1]


def _jobs(args: argparse.Namespace, sources: list[Path], several: bool) -> list[Job]:
    names = result_names(sources)
    columns = []
    for option in ("out", "attention_out", "changed_out"):
        value = getattr(args, option)
        label = "--" + option.replace("_", "-")
        columns.append(
            [None] * len(names) if value is None else place(label, value, names, several)
        )
    return [Job(*paths) for paths in zip(sources, *columns, strict=True)]


def _claimed(
    jobs: list[Job], outputs: Outputs, failures: Failures, resume: bool = False
) -> list[Job]:
    """The jobs whose outputs can be written, or stay if they are there already."""
    good = []
    for job in jobs:
        with failures.of(job.source):
            for option, path in job.outputs.items():
                outputs.claim(option, path, resume=resume)
            good.append(job)
    return good


def _say_what_differs(inputs: Inputs, jobs: list[Job], done: int) -> None:
    """Say which pictures are left out or get another name."""
    if inputs.skipped:
        say(f"skipped {len(inputs.skipped)}: {listed(inputs.skipped)}")
    renamed = [f"{j.source.name} is {j.out.name}" for j in jobs if j.out.stem != j.source.stem]
    if renamed:
        say(f"{len(renamed)} renamed, since names would clash: {listed(renamed)}")
    if done:
        say(f"{done} already done; add --overwrite to make them again")
