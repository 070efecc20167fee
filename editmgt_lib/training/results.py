"""What a stage leaves behind: parts of a checkpoint, or a LoRA file; and who made which."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ..checkpoints.layout import layout_of
from ..errors import CheckpointError, InputError
from ..files import atomic_write_json
from .config import RunConfig, StageConfig
from .generation import GenerationStage
from .lora import save_adapter, weights_digest
from .run import Run
from .state import is_done, saved_steps, write_progress

CHECKPOINT = "checkpoint"
MAKERS = "makers.json"
# The part of a checkpoint that a kind of stage writes, for later stages to read.
PART = {
    "text": "llm_encoder",
    "tokenizer": "vqvae",
    "text-to-image": "editmgt",
    "edit": "editmgt",
    "decoder": "vqvae",
}


def result_of(stage: StageConfig, out: Path) -> Path:
    """The file or folder that a stage makes, for use."""
    return out / f"{stage.name}.safetensors" if stage.lora else out / CHECKPOINT


def is_exported(stage: StageConfig, out: Path) -> bool:
    """Whether a stage is finished and its result written."""
    made = result_of(stage, out)
    made = made if stage.lora else made / PART[stage.kind]
    return is_done(out / stage.name, stage.loop.steps) and made.exists()


def require_origin(stage: StageConfig, config: RunConfig, out: Path) -> None:
    """Raise CheckpointError if a stage would start from its own result, or a later stage's."""
    names = [s.name for s in config.stages]
    before = config.stages[: names.index(stage.name)]
    made = {PART[s.kind] for s in before if not s.lora}
    reads = PART[stage.kind] in made or stage.kind == "decoder"
    maker = _makers(out).get(PART[stage.kind])
    late = maker in names and names.index(maker) >= names.index(stage.name)
    if reads and late and not saved_steps(out / stage.name):
        raise CheckpointError(
            f"stage {stage.name!r} has no state in {out / stage.name}, but {out / CHECKPOINT} "
            f"holds the result of stage {maker!r}; train into another folder"
        )


def _makers(out: Path) -> dict[str, str]:
    """Which stage wrote which part of the checkpoint."""
    with suppress(OSError, ValueError):
        return json.loads((out / MAKERS).read_text(encoding="utf-8"))
    return {}


def export(run: Run, stage: StageConfig, config: RunConfig, out: Path, start: Path | None) -> None:
    """Write a stage's averaged weights, as parts of a checkpoint or as a LoRA."""
    run.export(lambda: _export(run, stage, config, out, start))


def _export(run: Run, stage: StageConfig, config: RunConfig, out: Path, start: Path | None) -> None:
    built, folder = run.stage, out / CHECKPOINT
    if stage.lora:
        about = {
            "steps": run.step,
            "base": weights_digest(built.transformer),
            "trigger": stage.lora.trigger,
        }
        save_adapter(result_of(stage, out), built.transformer, about)
    else:
        built.export(folder)
        if isinstance(built, GenerationStage):
            _write_settings(built, folder)
            if start is not None:
                _complete(folder, start, config)
        atomic_write_json(out / MAKERS, _makers(out) | {PART[stage.kind]: stage.name})
    write_progress(run.folder, run.step, run.options.steps, exported=True)


def _write_settings(stage: GenerationStage, folder: Path) -> None:
    settings = stage.settings
    atomic_write_json(folder / "editmgt.json", settings.to_dict())
    scheduler = {
        "mask_token_id": stage.config.mask_token_id,
        "masking_schedule": settings.sampling.schedule,
    }
    atomic_write_json(folder / "scheduler" / "scheduler_config.json", scheduler)


def require_folder(start: Path) -> None:
    """Raise InputError unless the parts of a checkpoint can be copied file by file."""
    if not start.is_dir():
        raise InputError(f"start is {start}, one file; name a folder to train whole networks from")


def _complete(folder: Path, start: Path, config: RunConfig) -> None:
    """Add the parts that no stage trains, by links to the files where the disk has them."""
    places = {part.name: start / part.name for part in layout_of(start).parts}
    places.pop(layout_of(start).transformer)
    if config.language_model:
        places["llm_encoder"] = Path(config.language_model)
    for name, place in places.items():
        if (folder / name).exists() or not place.is_dir():
            continue
        shutil.copytree(place, folder / name, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
    return target
