"""A whole benchmark: prepare, generate, score, judge, report; each can run apart.

Every stage reads only the files of those before it. Several processes share the items (RANK,
WORLD_SIZE); the one that finishes last reports.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..checks import require_choice, require_number
from ..errors import InputError
from ..tables import refuse_unknown
from .editors import CopyInput, Editor, Finished, ModelEditor, RoundTrip, Setup
from .generation import generate
from .items import Dataset
from .pacing import MAX_FAILED, Progress
from .preparation import prepare
from .report import ReportOptions, write_report
from .runs import RunFolder
from .scoring import Metrics, score
from .sweeps import L1, write_sweep

STAGES = ("prepare", "generate", "score", "judge", "report")
COPY, ROUNDTRIP = "copy", "roundtrip"


@dataclass(frozen=True)
class Plan:
    """What to run. Raises InputError.

    stages: of STAGES, at least one; run in that order. seed: of the run, 0..2**32 - 1.
    limit, chains: see `prepare`. dataset_options: what else decides the items, for run.json.
    setup: how a model edits. sweep: values of options by name, as {"threshold": (0.0, 0.1)}; each
        combination is a run of its own in sweep/. "seed" stands for that of the run, so that its
        sweep shows what chance alone does.
    editor: "model", "copy" (the source as it is), "roundtrip" (tokenized and decoded) or
        "pictures", finished ones in the folder `pictures`.
    baselines: also run, score and judge copy and, with a model, roundtrip.
    metrics: None is the data set's own.
    networks: folder of the networks that metrics need; device: where they run.
    max_failed: share of failures above which generating stops; 1 never does.
    judge, report: options of those stages.
    """

    stages: tuple[str, ...] = STAGES
    seed: int = 0
    limit: int | None = None
    chains: bool = False
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    editor: str = "model"
    pictures: Path | None = None
    setup: Setup = field(default_factory=lambda: Setup({}))
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    baselines: bool = True
    metrics: tuple[str, ...] | None = None
    networks: Path | None = None
    device: str = "cpu"
    max_failed: float = MAX_FAILED
    judge: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stage in self.stages:
            require_choice("stages", stage, STAGES)
        if not self.stages:
            raise InputError(f"stages is empty; use some of {', '.join(STAGES)}")
        for stage in ("judge", "report"):
            if getattr(self, stage) and stage not in self.stages:
                raise InputError(
                    f"options of {stage} have no effect with the stages {', '.join(self.stages)}; "
                    f"add {stage} to them, or leave the options out"
                )
        require_choice("editor", self.editor, ("model", COPY, ROUNDTRIP, "pictures"))
        if (self.editor == "pictures") != (self.pictures is not None):
            raise InputError("pictures are made already: give their folder, and no model")
        if self.sweep and self.editor != "model":
            raise InputError(f"sweep has no effect on {self.editor}; it needs a model")
        require_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        require_number("max_failed", self.max_failed, 0, 1)
        if self.limit is not None:
            require_number("limit", self.limit, 1, whole=True)
        for name, values in self.sweep.items():
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"sweep of {name} is {values!r}; give different values, at least one"
                )
        for seed in self.sweep.get("seed", ()):
            require_number("seed", seed, 0, 2**32 - 1, whole=True)

    def points(self) -> dict[str, dict[str, Any]]:
        """The combinations of a sweep, by the name of their folder."""
        values = (
            dict(zip(self.sweep, point, strict=True)) for point in product(*self.sweep.values())
        )
        return {",".join(f"{k}={v}" for k, v in point.items()): point for point in values}

    def parts(self, run: RunFolder) -> dict[str, RunFolder]:
        """The runs to score, by what to call them: the main one or those of a sweep, baselines."""
        parts = {"": run}
        if self.sweep:
            parts = {name: run.part("sweep", name) for name in self.points()}
        names = () if not self.baselines or self.editor in (COPY, ROUNDTRIP) else (COPY,)
        if names and self.editor == "model":
            names += (ROUNDTRIP,)
        return parts | {name: run.part("baselines", name) for name in names}


def run_benchmark(
    run: RunFolder,
    dataset: Dataset,
    data: Path,
    plan: Plan,
    load: Callable[[], Any],
    progress: Progress | None = None,
) -> bool:
    """Run the stages of a plan, going on where an earlier run stopped.

    load: gives the model; called if a stage needs it.
    Returns False if the report is left to another process, which is not done yet.
    Raises InputError as the stages do; what is recorded by then stays.
    """
    stated = run.manifest.get("prepare", {}).get("dataset", dataset.name)
    if stated != dataset.name:
        raise InputError(f"{run.path} is a run of {stated}, not of {dataset.name}; name another")
    judging = _judge_options(dataset, plan) if "judge" in plan.stages else None
    ReportOptions.of(plan.report)  # mistakes are said before hours of work
    scorer = None
    names = plan.metrics or dataset.metrics
    if plan.sweep:
        names = tuple(dict.fromkeys((*names, L1)))
    if "score" in plan.stages:
        scorer = Metrics(names, plan.networks, plan.device)
    if "prepare" in plan.stages:
        prepare(
            run, dataset, data,
            limit=plan.limit, chains=plan.chains, options=plan.dataset_options,
        )  # fmt: skip
    if "generate" in plan.stages:
        _generate(run, plan, load, progress)
    if scorer is not None:
        for name, part in plan.parts(run).items():
            score(part, names, scorer, progress=progress, label=f"score {name}".strip())
        run.finish("score")
    if "judge" in plan.stages:
        _judge(run, plan, judging, progress)
    return _report(run, plan) if "report" in plan.stages else True


def _generate(
    run: RunFolder, plan: Plan, load: Callable[[], Any], progress: Progress | None
) -> None:
    model = load() if plan.editor in ("model", ROUNDTRIP) else None
    for name, part in plan.parts(run).items():
        label = f"generate {name}".strip()
        editor = _editor(name, plan, model)
        generate(
            part, editor, plan.points().get(name, {}).get("seed", plan.seed),
            max_failed=plan.max_failed, progress=progress, label=label,
        )  # fmt: skip
    run.finish("generate")


def _editor(name: str, plan: Plan, model: Any) -> Editor:
    """The editor of a part."""
    kind = name if name in (COPY, ROUNDTRIP) else plan.editor
    if kind == COPY:
        return CopyInput()
    if kind == "pictures":
        return Finished(plan.pictures)
    if kind == ROUNDTRIP:
        return RoundTrip(model, plan.setup)
    point = {k: v for k, v in plan.points().get(name, {}).items() if k != "seed"}
    options = {**plan.setup.options, **point}
    return ModelEditor(model, replace(plan.setup, options=options))


def _judge_options(dataset: Dataset, plan: Plan) -> Any:
    from .judging import JudgeOptions, check_judge
    from .judging.options import PROTOCOLS

    own = {"protocol": dataset.name} if dataset.name in PROTOCOLS else {}
    known = [f.name for f in fields(JudgeOptions)]
    refuse_unknown(plan.judge, known, "judge")
    if missing := [name for name in ("url", "model") if name not in plan.judge]:
        raise InputError(f"judge: {missing[0]} is missing; give --judge {missing[0]}=...")
    options = JudgeOptions(**own | dict(plan.judge))
    check_judge(options)  # before hours of work
    return options


def _judge(run: RunFolder, plan: Plan, options: Any, progress: Progress | None) -> None:
    from .judging import judge_run

    for name, part in plan.parts(run).items():
        judge_run(part, options, progress=progress, label=f"judge {name}".strip())
    run.finish("judge")


def _report(run: RunFolder, plan: Plan) -> bool:
    """Write the reports, unless another process has still to finish a stage before."""
    before = [stage for stage in plan.stages if stage not in ("prepare", "report")]
    if run.process.world > 1 and not all(run.finished(stage) for stage in before):
        return False
    if plan.sweep:
        write_sweep(run, plan.points())
        for name in plan.points():
            write_report(run.part("sweep", name), plan.report)
    write_report(run, plan.report)
    return True
