"""`editmgt train`: the stages of a run in order, each resumed where it stopped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ..checks import require_choice, require_number
from ..data.opening import require_data
from ..files import atomic_write_bytes, atomic_write_json
from ..loader import choose_device
from ..tables import to_toml
from .building import Builder
from .config import GENERATION, RunConfig, StageConfig, config_table, load_config, sources_of
from .environment import environment
from .loop import train
from .options import LoopOptions
from .parallel import World, joined
from .plan import plan_stage, require_room
from .results import CHECKPOINT, export, is_exported, require_origin, result_of
from .run import Run

Report = Callable[[str], None]


def run_training(
    recipe: str | Path | RunConfig,
    out: Path,
    *,
    stages: Sequence[str] | None = None,
    minutes: float | None = None,
    threads: int | None = None,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    compiled: bool | None = None,
    changes: Sequence[str] = (),
    dry_run: bool = False,
    report: Report | None = None,
) -> Path:
    """Train stages into `out` and return the result of the last: the checkpoint, or a LoRA file.

    Finished stages are skipped, interrupted ones resumed. Started by a launcher, all processes
    train together, see `parallel`.

    Args:
        recipe: a run's file or its content, or the name of a recipe.
        out: holds a folder per stage (states, log, pictures), the run's file, and the results.
        stages: names of stages to train; None: all.
        minutes: time limit per stage; run again to resume.
        threads: CPU threads of this call.
        steps: overrides every stage's.
        device: where to train, or `"auto"`; only the CPU resumes bit for bit.
        compiled: overrides `engine.compiled`.
        changes: see `config.load_config`.
        dry_run: report what would be trained, and write nothing.
        report: takes lines about each stage before it trains.

    Raises:
        InputError: unknown recipe, key, stage or device, a number out of range, or too little room.
        CheckpointError: an earlier stage is missing, or a saved state is broken or of another run.
        DivergedError, EditMGTError: training diverges, compiling fails.
    """
    config = recipe if isinstance(recipe, RunConfig) else load_config(recipe, changes)
    config = _overridden(config, steps, compiled)
    chosen = _chosen(config, stages)
    require_number("minutes", minutes or 0, 0)
    require_number("threads", 1 if threads is None else threads, 1, whole=True)
    with cpu_threads(threads), joined(choose_device(device)) as world:
        due = world.on_first(lambda: _due(chosen, out))
        if not dry_run:
            world.on_first(lambda: _require_data(config, [s for s in chosen if s.name in due]))
        tell = report if report is not None and world.first else _silent
        builder, fastest = Builder(config, out / CHECKPOINT, world.device), {}
        for stage in chosen:
            if stage.name in due:
                plan = plan_stage(stage, config, builder.start, world)
                fastest[stage.name] = plan.operations / plan.peak
                for line in plan.lines:
                    tell(line)
                world.on_first(lambda p=plan: require_room(p, out, world))
        if not dry_run:
            for stage in (s for s in chosen if s.name in due):
                if not _train_stage(stage, builder, out, world, minutes, fastest[stage.name]):
                    break
    return result_of(chosen[-1], out)


def _silent(_: str) -> None:
    pass


def _overridden(config: RunConfig, steps: int | None, compiled: bool | None) -> RunConfig:
    require_number("steps", 1 if steps is None else steps, 1, whole=True)
    stages = [replace(stage, loop=shortened(stage.loop, steps)) for stage in config.stages]
    engine = config.engine if compiled is None else replace(config.engine, compiled=compiled)
    return replace(config, stages=tuple(stages), engine=engine)


def shortened(loop: LoopOptions, steps: int | None) -> LoopOptions:
    """Change a schedule's number of steps; None keeps it."""
    return replace(loop, steps=steps, cooldown=min(loop.cooldown, steps // 2)) if steps else loop


def _chosen(config: RunConfig, names: Sequence[str] | None) -> list[StageConfig]:
    """Stages of these names, in the run's order."""
    known = tuple(stage.name for stage in config.stages)
    for name in names or ():
        require_choice("stages", name, known)
    return [stage for stage in config.stages if names is None or stage.name in names]


def _due(stages: Sequence[StageConfig], out: Path) -> list[str]:
    """Names from the first stage that is not finished on: later ones start from its result."""
    done = [is_exported(stage, out) for stage in stages]
    first = done.index(False) if False in done else len(done)
    return [stage.name for stage in stages[first:]]


def _require_data(config: RunConfig, stages: Sequence[StageConfig]) -> None:
    """Raise InputError unless the stages' data is there: planning and earlier stages take long."""
    for stage in stages:
        if stage.kind in GENERATION:
            for table in sources_of(config, stage):
                require_data(table)


def _write_run(config: RunConfig, out: Path, world: World) -> None:
    atomic_write_bytes(out / "run.toml", to_toml(config_table(config)).encode())
    atomic_write_json(out / "run.json", environment(world))


def _train_stage(
    stage: StageConfig, builder: Builder, out: Path, world: World, minutes: float | None,
    fastest: float,
) -> bool:  # fmt: skip
    """Train and export one stage; whether it is finished."""
    world.on_first(lambda: require_origin(stage, builder.config, out))
    built, engine = builder.stage(stage), builder.config.engine
    world.on_first(lambda: _write_run(builder.config, out, world))

    def trained(world: World) -> bool:
        run = Run(built, stage.loop, out / stage.name, world, engine.parallel)
        validate = builder.validation(stage, built, world)
        train(
            run, name=stage.name, minutes=minutes, validate=validate,
            tensorboard=engine.tensorboard, fastest=fastest,
        )  # fmt: skip
        if run.step:
            export(run, stage, builder.config, out, builder.start)
        return run.step == stage.loop.steps

    if getattr(built, "whole_batch", False) and world.size > 1:
        return world.on_first(lambda: trained(world.alone()))
    return trained(world)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Set torch's CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
