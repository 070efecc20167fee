"""`editmgt benchmark NAME --data DIR --model M --out RUN`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import say, show
from .interrupts import working
from .options import (
    add_common_options,
    add_device_options,
    add_lora_option,
    load_model,
    path_of,
    plain,
)
from .pace import Meter

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluation.benchmark import Plan
    from ..evaluation.items import Dataset

TOYWORLD = "toyworld"  # the only benchmark without data on disk
_STAGES = "prepare,generate,score,judge,report"
_NOTES = (
    "Each stage can run apart and goes on where it stopped. Several processes share the items: "
    "start each with RANK and WORLD_SIZE, or all with torchrun. See docs/evaluation.md."
)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "benchmark", help="score a model, or finished pictures, on a benchmark", description=_NOTES
    )
    parser.add_argument(
        "name", metavar="NAME", help="as emu-edit or toyworld; a wrong name lists all"
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="DIR", help="where its data is (default: none, as for toyworld)"
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch the data into DIR first, where the hub has it (default: no)",
    )
    parser.add_argument("-o", "--out", metavar="RUN", required=True, help="folder of the run")
    parser.add_argument(
        "--compare", nargs=2, metavar=("RUN_A", "RUN_B"),
        help="only compare two runs, as `editmgt compare` does, into --out (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--stages", metavar="A,B", help=f"(default: {_STAGES}; judge only with --judge)"
    )
    _add_editor_options(parser.add_argument_group("what is scored"))
    _add_item_options(parser.add_argument_group("items"))
    _add_score_options(parser.add_argument_group("scores"))
    add_device_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_editor_options(group: Any) -> None:
    group.add_argument(
        "--model", metavar="MODEL",
        help="as of edit; or copy, or roundtrip:MODEL (default: toyworld)",
    )  # fmt: skip
    group.add_argument(
        "--pictures",
        metavar="DIR",
        help="score finished pictures ID.png in place of a model's (default: no)",
    )
    add_lora_option(group)
    group.add_argument(
        "--set", action="append", default=[], type=setting, metavar="OPTION=VALUE",
        help="sampling or localization option, as steps=16 (default: the checkpoint's)",
    )  # fmt: skip
    group.add_argument(
        "--sweep", action="append", default=[], type=setting, metavar="OPTION=A,B,C",
        help="a run for each value, as threshold=0,0.1 (default: no sweep)",
    )  # fmt: skip
    group.add_argument(
        "--negative", type=plain, metavar="TEXT", help="what to avoid (default: the checkpoint's)"
    )
    group.add_argument(
        "--fit", default="pad", metavar="MODE",
        help="pad, native, or squash: resized to a square and back (default: pad)",
    )  # fmt: skip
    group.add_argument(
        "--no-maps", action="store_true", help="write no relevance maps (default: write them)"
    )
    group.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out copy-input and round trip (default: both)",
    )
    group.add_argument(
        "--max-failed", type=float, default=0.2, metavar="X",
        help="stop when more than this share of edits fails, 0..1 (default: 0.2)",
    )  # fmt: skip


def _add_item_options(group: Any) -> None:
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the run, 0..2**32-1 (default: 0)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="the first items only (default: all)")
    group.add_argument(
        "--chains", action="store_true",
        help="each turn edits the last result (default: the data's picture)",
    )  # fmt: skip
    group.add_argument(
        "--samples", type=int, default=30, metavar="N", help="toyworld: per category (default: 30)"
    )


def _add_score_options(group: Any) -> None:
    group.add_argument("--metrics", metavar="A,B", help="by name (default: the benchmark's own)")
    group.add_argument(
        "--networks", metavar="DIR", help="folder of the networks that metrics need (default: none)"
    )
    group.add_argument(
        "--judge", action="append", default=[], type=setting, metavar="OPTION=VALUE",
        help="option of the judge, as url=http://HOST/v1 (default: no judge)",
    )  # fmt: skip
    group.add_argument(
        "--report", action="append", default=[], type=setting, metavar="OPTION=VALUE",
        help="option of the stage report, as failures=drop (default: none)",
    )  # fmt: skip


def setting(text: str) -> tuple[str, Any]:
    """ "steps=16" as a name and a value: a number, a word, or a tuple where there are commas."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value:
        raise argparse.ArgumentTypeError(f"{text!r} has no value; write OPTION=VALUE")
    if "://" in value or value[0] in "{[":
        return name.strip(), _value(value)
    parts = tuple(_value(part) for part in value.split(","))
    return name.strip(), parts if len(parts) > 1 else parts[0]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return plain(text)


def run(args: argparse.Namespace) -> int:
    """Run the stages, or compare. Raises EditMGTError for what concerns all items."""
    if args.compare is not None:
        return compare_runs(args, *args.compare, dataset=args.name)
    from ..data.processes import this_process
    from ..evaluation.benchmark import run_benchmark
    from ..evaluation.runs import RunFolder

    process = this_process()
    args.device = process.device(args.device)
    plan = _plan(args)
    folder = RunFolder(path_of(args.out), None if args.data is None else path_of(args.data))
    dataset = _dataset(args, plan)
    if args.download and args.name == TOYWORLD:
        raise InputError("--download has no effect on toyworld, which is drawn; leave it out")
    if args.data is None and args.name != TOYWORLD and "prepare" not in folder.manifest:
        raise InputError(f"{args.name} needs its data; name its folder with --data")
    data = path_of(args.data or folder.manifest.get("prepare", {}).get("data", "."))
    working()
    with Meter() as meter:
        if args.download and process.rank == 0:
            _fetch(args.name, data, meter)
        done = run_benchmark(folder, dataset, data, plan, lambda: load_model(args), meter)
    if not done:
        say("other processes are at work; the last one writes the report")
    elif "report" in plan.stages:
        show(str(folder.path / "report.html"))
    else:
        say(f"{folder.path}: {', '.join(plan.stages)} done")
    return 0


def compare_runs(args: argparse.Namespace, first: str, second: str, dataset: str = "") -> int:
    """Write the three files of a comparison into --out. Raises EditMGTError.

    dataset: what both must be runs of; "" takes any.
    """
    from ..evaluation.report import write_comparison
    from ..evaluation.runs import RunFolder

    runs = [RunFolder(path_of(name)) for name in (first, second)]
    for run in runs:
        stated = run.root.manifest.get("prepare", {}).get("dataset", dataset)
        if dataset and stated != dataset:
            raise InputError(f"{run.path} is a run of {stated}, not of {dataset}; name another")
    out = path_of(args.out)
    working()
    write_comparison(*runs, out, dict(args.report), names(args.metrics))
    say(f"wrote {out / 'compare.html'}, compare.md and compare.json")
    return 0


def _fetch(name: str, data: "Path", meter: Meter) -> None:
    from ..evaluation.datasets.fetching import fetch

    def progress(_: str, done: int, total: int) -> None:
        meter("fetch, MB", done >> 20, total >> 20, 0)

    fetch(name, data, progress=progress)


def _plan(args: argparse.Namespace) -> "Plan":
    from ..evaluation.benchmark import STAGES, Plan
    from ..evaluation.editors import Setup
    from ..settings import Settings

    stages = names(args.stages)
    if stages is None:
        stages = tuple(stage for stage in STAGES if stage != "judge" or args.judge)
    options = dict(args.set)
    sweep = {k: v if isinstance(v, tuple) else (v,) for k, v in args.sweep}
    editor, args.model = _editor(args)
    plan = Plan(
        stages=stages,
        seed=args.seed,
        limit=args.limit,
        chains=args.chains,
        dataset_options=_toy_options(args) if args.name == TOYWORLD else {},
        editor=editor,
        pictures=None if args.pictures is None else path_of(args.pictures),
        setup=Setup(
            options, args.negative, args.fit, not args.no_maps, args.model, tuple(args.lora)
        ),
        sweep=sweep,
        baselines=not args.no_baselines,
        metrics=names(args.metrics),
        networks=None if args.networks is None else path_of(args.networks),
        device=args.device,
        max_failed=args.max_failed,
        judge=_judge_options(args),
        report=dict(args.report),
    )
    for point in plan.points().values():
        Settings().override(**{**options, **point})  # a wrong option is said at once
    return plan


def _judge_options(args: argparse.Namespace) -> dict[str, Any]:
    options = dict(args.judge)
    if "prompts" in options:
        options["prompts"] = path_of(str(options["prompts"]))
    if "reuse" in options:
        folders = options["reuse"]
        folders = folders if isinstance(folders, tuple) else (folders,)
        options["reuse"] = tuple(path_of(str(folder)) for folder in folders)
    return options


def names(text: str | None) -> tuple[str, ...] | None:
    """ "a,b" as a tuple; None as it is."""
    return None if text is None else tuple(filter(None, map(str.strip, text.split(","))))


def _editor(args: argparse.Namespace) -> tuple[str, str]:
    """Kind of the editor, and the model it needs or ""."""
    if args.pictures is not None:
        if args.model is not None:
            raise InputError(f"--pictures {args.pictures} and --model {args.model}: give one")
        return "pictures", ""
    model = args.model or "toyworld"
    if model == "copy":
        return "copy", ""
    if model.startswith("roundtrip:"):
        return "roundtrip", model.removeprefix("roundtrip:")
    return "model", model


def _toy_options(args: argparse.Namespace) -> dict[str, int]:
    """Pictures are drawn at the model's own size, or at that of the shipped one."""
    from ..checkpoints import resolve
    from ..settings import Settings

    size = Settings.read(resolve(args.model or "toyworld")).resolution
    return {"samples": args.samples, "seed": args.seed, "size": size}


def _dataset(args: argparse.Namespace, plan: "Plan") -> "Dataset":
    from ..checks import require_choice
    from ..evaluation.datasets.registry import ENTRIES

    require_choice("benchmark", args.name, (TOYWORLD, *ENTRIES))
    if args.name == TOYWORLD:
        from ..evaluation.datasets.toyworld import ToyWorld

        return ToyWorld(**plan.dataset_options)
    return ENTRIES[args.name].dataset
