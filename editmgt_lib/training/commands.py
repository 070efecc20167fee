"""`editmgt train`: the stages of a run in order, each resumed where it stopped."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from ..checks import require_choice, require_number
from ..errors import CheckpointError
from ..files import atomic_write_bytes, atomic_write_json
from ..loader import choose_device
from .building import PART, Builder
from .config import RunConfig, StageConfig, config_table, load_config
from .environment import environment
from .generation import GenerationStage
from .loop import train
from .options import LoopOptions
from .parallel import World, joined
from .run import Run
from .stage import Stage
from .state import is_done, saved_steps, write_progress
from .tables import to_toml

CHECKPOINT = "checkpoint"
MAKERS = "makers.json"


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
) -> Path:
    """Train stages into `out` and return the checkpoint's folder.

    Finished stages are skipped, interrupted ones resumed. Started by a launcher, all processes
    train together, see `parallel`.

    Args:
        recipe: a run's file or its content, or the name of a recipe.
        out: holds a folder per stage (states, log, pictures), the run's file, and `checkpoint`.
        stages: names of stages to train; None: all.
        minutes: time limit per stage; run again to resume.
        threads: CPU threads of this call.
        steps: overrides every stage's.
        device: where to train, or `"auto"`; only the CPU resumes bit for bit.
        compiled: overrides `engine.compiled`.
        changes: see `config.load_config`.

    Raises:
        InputError: unknown recipe, key, stage or device, or a number out of range.
        CheckpointError: an earlier stage is missing, or a saved state is broken or of another run.
        DivergedError, EditMGTError: training diverges, compiling fails.
    """
    config = recipe if isinstance(recipe, RunConfig) else load_config(recipe, changes)
    config = _overridden(config, steps, compiled)
    chosen = _chosen(config, stages)
    require_number("minutes", minutes or 0, 0)
    require_number("threads", 1 if threads is None else threads, 1, whole=True)
    folder = out / CHECKPOINT
    with cpu_threads(threads), joined(choose_device(device)) as world:
        builder = Builder(config, folder, world.device)
        world.on_first(lambda: _write_run(config, out, world))
        trained = False
        for stage in chosen:
            if not trained and world.on_first(lambda s=stage: _is_exported(s, out)):
                continue
            trained = True
            if not _train_stage(stage, builder, out, world, minutes):
                break
    return folder


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


def _is_exported(stage: StageConfig, out: Path) -> bool:
    made = out / CHECKPOINT / PART[stage.kind]
    return is_done(out / stage.name, stage.loop.steps) and made.is_dir()


def _write_run(config: RunConfig, out: Path, world: World) -> None:
    atomic_write_bytes(out / "run.toml", to_toml(config_table(config)).encode())
    atomic_write_json(out / "run.json", environment(world))


def _train_stage(
    stage: StageConfig, builder: Builder, out: Path, world: World, minutes: float | None
) -> bool:
    """Train and export one stage; whether it is finished."""
    world.on_first(lambda: _require_origin(stage, builder.config, out))
    built = builder.stage(stage)
    if getattr(built, "whole_batch", False) and world.size > 1:
        return world.on_first(lambda: _trained(stage, built, builder, out, world.alone(), minutes))
    return _trained(stage, built, builder, out, world, minutes)


def _trained(
    stage: StageConfig, built: Stage, builder: Builder, out: Path, world: World,
    minutes: float | None,
) -> bool:  # fmt: skip
    engine = builder.config.engine
    run = Run(built, stage.loop, out / stage.name, world, engine.parallel)
    train(
        run,
        name=stage.name,
        minutes=minutes,
        validate=builder.validation(stage, built, world),
        tensorboard=engine.tensorboard,
    )
    export(run, builder.folder)
    made = _makers(out) | {PART[stage.kind]: stage.name}
    world.on_first(lambda: atomic_write_json(out / MAKERS, made) and None)
    return run.step == stage.loop.steps


def _require_origin(stage: StageConfig, config: RunConfig, out: Path) -> None:
    """Raise CheckpointError if a stage would start from its own result, or a later stage's."""
    names = [s.name for s in config.stages]
    maker = _makers(out).get(PART[stage.kind])
    late = maker in names and names.index(maker) >= names.index(stage.name)
    if late and not saved_steps(out / stage.name):
        raise CheckpointError(
            f"stage {stage.name!r} has no state in {out / stage.name}, but {out / CHECKPOINT} "
            f"holds the result of stage {maker!r}; train into another folder"
        )


def _makers(out: Path) -> dict[str, str]:
    """Which stage wrote which part of the checkpoint."""
    with suppress(OSError, ValueError):
        return json.loads((out / MAKERS).read_text(encoding="utf-8"))
    return {}


def export(run: Run, folder: Path) -> None:
    """Write a stage's averaged weights, with settings and scheduler."""
    run.export(lambda: _export(run, folder))


def _export(run: Run, folder: Path) -> None:
    stage = run.stage
    stage.export(folder)
    if isinstance(stage, GenerationStage):
        settings = stage.settings
        atomic_write_json(folder / "editmgt.json", settings.to_dict())
        scheduler = {
            "mask_token_id": stage.config.mask_token_id,
            "masking_schedule": settings.sampling.schedule,
        }
        atomic_write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_progress(run.folder, run.step, run.options.steps, exported=True)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Set torch's CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
