"""`editmgt train`: the stages of a recipe in order, each resumed where it stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoints.loading import load_module
from ..checkpoints.weights import read_config, read_state_dict
from ..checks import require_choice, require_number
from ..errors import CheckpointError
from ..files import atomic_write_json
from ..loader import choose_device
from ..models.backends import math_attention, sdpa
from ..models.transformer import MaskedTransformer
from ..models.vq import VQConfig, VQModel
from ..text.encoders import TextEncoders
from .decoder import DecoderStage
from .generation import GenerationStage
from .initial import (
    code_features,
    new_text_encoders,
    new_transformer,
    seed_with_codes,
)
from .loop import LoopOptions, Run, train
from .recipes import RECIPES, STAGES, Recipe
from .state import is_done, write_progress
from .text import TextStage
from .tokenizer import TokenizerStage

CHECKPOINT = "checkpoint"
# The folder a stage writes, for later stages to read.
PART = {
    "text": "llm_encoder",
    "tokenizer": "vqvae",
    "text-to-image": "editmgt",
    "edit": "editmgt",
    "decoder": "vqvae",
}


def run_training(
    recipe: str,
    out: Path,
    *,
    stages: Sequence[str] = STAGES,
    minutes: float | None = None,
    threads: int | None = None,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    compiled: bool = False,
) -> Path:
    """Train stages into `out` and return the checkpoint's folder.

    Finished stages are skipped, interrupted ones resumed.

    Args:
        recipe: a name in `RECIPES`.
        out: holds a folder per stage (state, pictures) and `checkpoint`.
        stages: names out of `STAGES`, trained in that order.
        minutes: time limit per stage; run again to resume.
        threads: CPU threads of this call.
        steps: overrides every stage's.
        device: where to train, or `"auto"`; only the CPU resumes bit for bit.
        compiled: run the transformer through `torch.compile`. For GPUs, where launching its many
            small kernels takes longer than running them; rounding differs.

    Raises:
        InputError: unknown recipe, stage or device, or a number out of range.
        CheckpointError: an earlier stage is missing, or a saved state cannot be read.
        EditMGTError: compiling fails.
    """
    require_choice("recipe", recipe, tuple(RECIPES))
    for name in stages:
        require_choice("stages", name, STAGES)
    require_number("minutes", minutes or 0, 0)
    for name, value in (("steps", steps), ("threads", threads)):
        require_number(name, 1 if value is None else value, 1, whole=True)
    chosen, folder, device = RECIPES[recipe], out / CHECKPOINT, choose_device(device)
    trained = False
    with cpu_threads(threads):
        for name in (s for s in STAGES if s in stages):
            loop = shortened(chosen.loops[name], steps)
            exported = is_done(out / name, loop.steps) and (folder / PART[name]).is_dir()
            if exported and not trained:
                continue
            trained = True
            stage = build_stage(name, chosen, folder, device)
            if compiled and isinstance(stage, GenerationStage):
                stage.transformer.compile_blocks()
            run = Run(stage, loop, out / name)
            train(run, name=name, minutes=minutes)
            export(run, folder)
            if run.step < loop.steps:
                break
    return folder


def shortened(loop: LoopOptions, steps: int | None) -> LoopOptions:
    """Change a schedule's number of steps; None or 0 keeps it."""
    return replace(loop, steps=steps, cooldown=min(loop.cooldown, steps // 2)) if steps else loop


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Set torch's CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_stage(
    name: str, recipe: Recipe, folder: Path, device: torch.device | str = "cpu"
) -> TextStage | TokenizerStage | GenerationStage | DecoderStage:
    """Build a stage from the results of earlier stages in `folder`.

    Raises CheckpointError if these are missing or do not fit the recipe.
    """
    if name == "text":
        encoders = new_text_encoders(recipe.transformer, recipe.text_length, seed=0)
        return TextStage(encoders, seed=0, device=device)
    if name == "tokenizer":
        return TokenizerStage(recipe.tokenizer, recipe.size, 0, recipe.continuous, device)
    _require_part(folder, name, "tokenizer")
    config = VQConfig.from_dict(read_config(folder / "vqvae"))
    # A checkpoint to continue may be stored in float16, which is too coarse to train in.
    vq = load_module(
        lambda: VQModel(config), read_state_dict(folder / "vqvae"), dtype=torch.float32
    )
    if name == "decoder":
        return DecoderStage(vq, recipe.size, device)
    _require_part(folder, name, "text")
    encoders = TextEncoders.from_folder(folder, text_length=recipe.text_length)
    if name == "text-to-image":
        transformer = new_transformer(recipe.transformer, seed=0)
        width = recipe.transformer.width // recipe.transformer.stride**2
        seed_with_codes(transformer, code_features(vq, recipe.size, width, seed=0), seed=0)
        options = recipe.generation
    else:
        _require_part(folder, name, "text-to-image")
        transformer = load_module(
            lambda: MaskedTransformer(recipe.transformer),
            read_state_dict(folder / "editmgt"),
            where=str(folder / "editmgt"),
            dtype=torch.float32,
        ).requires_grad_(True)
        options = recipe.edit
    # On short sequences, CPUs compute the backward pass of plain products faster.
    transformer.attention = math_attention if torch.device(device).type == "cpu" else sdpa
    return GenerationStage(transformer, encoders, vq, options, device)


def _require_part(folder: Path, name: str, earlier: str) -> None:
    part = folder / PART[earlier]
    if not part.is_dir():
        raise CheckpointError(
            f"stage {name!r} starts from {part}, which is missing; train stage {earlier!r} first"
        )


def export(run: Run, folder: Path) -> None:
    """Write a stage's averaged weights, with settings and scheduler."""
    stage = run.stage
    run.with_averages(lambda: stage.export(folder))
    if isinstance(stage, GenerationStage):
        settings = stage.settings
        atomic_write_json(folder / "editmgt.json", settings.to_dict())
        scheduler = {
            "mask_token_id": stage.config.mask_token_id,
            "masking_schedule": settings.sampling.schedule,
        }
        atomic_write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_progress(run.folder, run.step, run.options.steps, exported=True)
