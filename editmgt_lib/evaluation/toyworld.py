"""`evaluate`: the benchmark `toyworld` without a folder to keep, and the tables of its figures."""

from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..data.processes import Process
from .benchmark import Plan, run_benchmark
from .datasets.toyworld import ToyWorld
from .layers import localization_by_layer
from .metrics.toyworld import METRICS
from .options import EvaluationOptions
from .pacing import Progress
from .report.toyworld import Report, Setting
from .report.toyworld_runs import read_pairs, read_point
from .report.toyworld_sweep import Sweep
from .runs import RunFolder

if TYPE_CHECKING:
    from ..pipeline import EditMGT


def evaluate(
    model: "EditMGT", options: EvaluationOptions | None = None, progress: Progress | None = None
) -> Report:
    """Evaluate a model on ToyWorld: success, outside error and localisation per category.

    The short form of `run_benchmark`: a sweep over thresholds 0 and lambda, so every pair is edited
    twice from the same random numbers, without region-hold and with it. Localisation compares the
    map of `model.localize`, on the token grid, with the token cells that contain a changed pixel.
    Figures repeat for the same model, options and processor; only the seconds do not.

    model: a ToyWorld checkpoint; `model.settings.resolution` is the size of the pictures.
    progress: may raise to stop.
    Raises InputError for an option that does not suit the model, and if an edit fails.
    """
    options = (options or EvaluationOptions()).completed(model.settings)
    model = copy(model)
    model.settings = replace(
        model.settings, sampling=options.sampling, localization=options.localization
    )
    with TemporaryDirectory(prefix="editmgt-") as folder:
        swept = {"threshold": (0.0, options.threshold)}
        runs = _run(Path(folder) / "pairs", model, options, options.samples, swept, progress)
        results, rows = read_pairs(*runs.values(), options.threshold, options.rows)
        seconds = [a.seconds for a in runs["threshold=0.0"].attempts().values() if a.seconds]
        sweep = _sweep(Path(folder) / "sweep", model, options, progress) if options.sweep else None
    layers = localization_by_layer(model, options, progress) if options.layers else None
    shared = {f.name for f in fields(Setting)} & {f.name for f in fields(options)}
    values = {name: getattr(options, name) for name in shared}
    setting = Setting(resolution=model.settings.resolution, **values)
    return Report(setting, results, rows, sweep, layers, fmean(seconds))


def _run(
    folder: Path,
    model: "EditMGT",
    options: EvaluationOptions,
    samples: int,
    sweep: dict[str, tuple[Any, ...]],
    progress: Progress | None,
) -> dict[str, RunFolder]:
    """Prepare, generate and score; the runs by point of the sweep."""
    asked = {"samples": samples, "seed": options.seed, "size": model.settings.resolution,
             "categories": options.categories}  # fmt: skip
    plan = Plan(
        stages=("prepare", "generate", "score"), seed=options.seed, dataset_options=asked,
        sweep=sweep, baselines=False, metrics=METRICS, max_failed=0,
    )  # fmt: skip
    run = RunFolder(folder, folder, Process(0, 1, None))
    run_benchmark(run, ToyWorld(**asked), folder, plan, lambda: model, progress)
    return plan.parts(run)


def _sweep(
    folder: Path, model: "EditMGT", options: EvaluationOptions, progress: Progress | None
) -> Sweep:
    samples = min(options.samples, options.study_samples)
    rules = options.hold_rules or (options.sampling.hold_rule,)
    swept = {"hold_rule": rules, "threshold": tuple(sorted(set(options.thresholds)))}
    runs = _run(folder, model, options, samples, swept, progress)
    points = Plan(sweep=swept).points()
    return Sweep(samples, tuple(read_point(runs[name], **point) for name, point in points.items()))
