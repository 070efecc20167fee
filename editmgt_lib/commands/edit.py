"""`editmgt edit IN... "instruction" -o OUT`."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..choices import COMBINATIONS, FITS, HOLD_RULES, REUSES
from ..errors import InputError
from .options import (
    OWN,
    add_common_options,
    add_model_options,
    add_output_options,
    add_sampling_options,
    path_of,
)
from .outputs import READABLE, Failures, Job, Outputs, Records, place

_USAGE = 'editmgt edit IN [IN ...] "INSTRUCTION" -o OUT [options]'
_NOTES = (
    "IN is a picture, or a folder of pictures (sub-folders are left out); OUT is a folder for "
    "several. Outside of what changed, an output equals its input bit for bit (.png, .webp). An "
    "option left out takes the value the checkpoint was made for (in brackets: the published one)."
)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "edit", help="change pictures by instruction", usage=_USAGE, description=_NOTES
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures, then the instruction")
    add_output_options(parser, "picture to write (.png .jpg .webp), or a folder for several")
    add_model_options(parser)
    group = parser.add_argument_group("how")
    add_sampling_options(group)
    group.add_argument(
        "--strength", type=float, metavar="X", help=f"of the input, 0.01..100 ({OWN} [1.1])"
    )
    group.add_argument(
        "--fit", choices=FITS, default="pad", metavar="MODE",
        help="pad, native (own shape) or crop (around the mask) (default: pad)",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true",
        help="torch.compile: a slow first step, faster ones after (default: no)",
    )  # fmt: skip
    _add_region_options(parser.add_argument_group("where"))
    _add_speed_options(parser.add_argument_group("faster, not exact (see benchmarks/README.md)"))
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_region_options(group: Any) -> None:
    group.add_argument(
        "--threshold", type=float, metavar="X",
        help=f"lambda: hold what matters less, 0..1, 0: off ({OWN} [0])",
    )  # fmt: skip
    group.add_argument(
        "--words", metavar="WORDS", help=f"look for these words, a comma between ({OWN} [all])"
    )
    group.add_argument(
        "--hold-rule", choices=HOLD_RULES, metavar="RULE",
        help=f"proposal or restore ({OWN} [proposal])",
    )  # fmt: skip
    group.add_argument(
        "--mask", metavar="FILE", help="only its white part may change (default: no mask)"
    )
    group.add_argument(
        "--combine", choices=COMBINATIONS, metavar="HOW",
        help="mask with threshold: intersection or union (default: intersection)",
    )  # fmt: skip
    group.add_argument(
        "--feather", type=float, default=0.0, metavar="PIXELS",
        help="soften the border of the change, from 0 up (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--attention-out", metavar="OUT", help="write the relevance map too (default: no)"
    )
    group.add_argument(
        "--changed-out", metavar="OUT", help="write the mask of what may differ too (default: no)"
    )


def _add_speed_options(group: Any) -> None:
    group.add_argument(
        "--fast", action="store_true",
        help="the options below as they paid, unless given (default: no)",
    )  # fmt: skip
    group.add_argument(
        "--reuse", choices=REUSES, metavar="WHAT",
        help=f"keep none, reference or known (tokens too) ({OWN} [none])",
    )  # fmt: skip
    group.add_argument(
        "--refresh", type=int, metavar="K",
        help=f"all anew at each K-th step, 1..1000 ({OWN} [8])",
    )  # fmt: skip
    group.add_argument(
        "--guided", dest="guidance_interval", type=_interval, metavar="A,B",
        help=f"guide in this share of steps alone, 0..1 ({OWN} [0,1])",
    )  # fmt: skip


def _interval(text: str) -> tuple[float, ...]:
    """ "0,0.5" as numbers; the library judges them."""
    return tuple(float(part) for part in text.split(","))


def run(args: argparse.Namespace) -> int:
    """Edit every input; one that fails is reported and the others go on.

    Raises EditMGTError for what concerns all of them; nothing is written then.
    """
    paths, args.instruction = _split(args.inputs)
    several = len(paths) > 1 or os.path.isdir(paths[0])
    sources = [source for path in paths for source in _pictures(path)]
    masks = [path_of(args.mask)] if args.mask else []
    outputs = Outputs([*sources, *masks], args.overwrite)
    records = Records(args.json, outputs)
    failures = Failures(args.debug, records)
    jobs = []
    for job in _jobs(args, sources, several):
        with failures.of(job.source):
            jobs.append(_checked(job, outputs))
    if jobs:
        _edit_all(jobs, args, records, failures)
    records.write()
    return failures.code


def _edit_all(
    jobs: list[Job], args: argparse.Namespace, records: Records, failures: Failures
) -> None:
    from .editing import Request, Session

    session = Session(Request.of(args), args)
    try:
        for number, job in enumerate(jobs, 1):
            label = f"{number}/{len(jobs)} {job.source.name}" if len(jobs) > 1 else "editing"
            with failures.of(job.source):
                record = session.edit(job, label)
                records.add(record, f"{job.out}  {record['changed']:.1%} may differ")
    except KeyboardInterrupt:
        records.write()  # of the pictures that are done
        raise


def _split(words: list[str]) -> tuple[list[Path], str]:
    """Inputs and the instruction behind them."""
    if len(words) < 2:
        raise InputError(f"only {words[0]!r} is given; give pictures, then what to do in quotes")
    if os.path.isfile(words[-1]):  # unlike Path.is_file, False for a text of any length
        raise InputError(f"the last argument is the file {words[-1]}; end with what to do")
    return [path_of(word) for word in words[:-1]], words[-1]


def _pictures(path: Path) -> list[Path]:
    """The pictures of a folder by name; anything else as it is, to be judged with its job."""
    if not os.path.isdir(path):
        return [path]
    found = (f for f in path.iterdir() if f.suffix.lower() in READABLE and f.is_file())
    return sorted(f for f in found if not f.name.startswith(".")) or [path]


def _jobs(args: argparse.Namespace, sources: list[Path], several: bool) -> Iterator[Job]:
    names = [source.stem for source in sources]
    columns = []
    for option in ("out", "attention_out", "changed_out"):
        value = getattr(args, option)
        label = "--" + option.replace("_", "-")
        columns.append(place(label, value, names, several) if value else [None] * len(names))
    for source, *targets in zip(sources, *columns, strict=True):
        yield Job(source, *targets)


def _checked(job: Job, outputs: Outputs) -> Job:
    """The job, if its input is there and its outputs can be written."""
    if os.path.isdir(job.source):
        raise InputError(f"the folder {job.source} holds no picture ({', '.join(READABLE)})")
    if not os.path.isfile(job.source):
        raise InputError(f"there is no picture {job.source}; check the name")
    outputs.claim("--out", job.out)
    if job.attention is not None:
        outputs.claim("--attention-out", job.attention)
    if job.changed is not None:
        outputs.claim("--changed-out", job.changed)
    return job
