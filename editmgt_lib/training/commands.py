"""`editmgt train`: the stages of a recipe one after the other, each going on where it stopped."""

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
# The folder a stage writes and the stages after it read.
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
    """Train the named stages into `out`; returns the folder of the checkpoint.

    Stages that are done are left alone; one that was stopped goes on where it was saved.

    Args:
        recipe: a name in `RECIPES`.
        out: holds a folder per stage (state, pictures) and `checkpoint`.
        stages: names out of `STAGES`, trained in that order.
        minutes: stop after so long in a stage; run again to go on.
        threads: of the CPU, for this call.
        steps: replaces every stage's.
        device: where to train, `"auto"` for the fastest there is; only the CPU resumes bit for bit.
        compiled: run the transformer through `torch.compile`, for GPUs, where starting its many
            small kernels takes longer than they do; rounding differs from that of plain steps.

    Raises:
        InputError: unknown recipe, stage or device, a number that cannot be.
        CheckpointError: a stage needs one that did not run, or a saved state cannot be read.
        EditMGTError: nothing can be compiled here.
    """
    require_choice("recipe", recipe, tuple(RECIPES))
    for name in stages:
        require_choice("stages", name, STAGES)
    require_number("minutes", minutes or 0, 0)
    for name, value in (("steps", steps), ("threads", threads)):
        require_number(name, 1 if value is None else value, 1, whole=True)
    chosen, folder, place = RECIPES[recipe], out / CHECKPOINT, choose_device(device)
    trained = False
    with cpu_threads(threads):
        for name in (s for s in STAGES if s in stages):
            loop = shortened(chosen.loops[name], steps)
            exported = is_done(out / name, loop.steps) and (folder / PART[name]).is_dir()
            if exported and not trained:
                continue
            trained = True
            stage = build_stage(name, chosen, folder, place)
            if compiled and isinstance(stage, GenerationStage):
                stage.transformer.compile_blocks()
            run = Run(stage, loop, out / name)
            train(run, name=name, minutes=minutes)
            export(run, folder)
            if run.step < loop.steps:
                break
    return folder


def shortened(loop: LoopOptions, steps: int | None) -> LoopOptions:
    """The schedule with another number of steps."""
    return replace(loop, steps=steps, cooldown=min(loop.cooldown, steps // 2)) if steps else loop


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many threads inside the block; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_stage(
    name: str, recipe: Recipe, folder: Path, device: torch.device | str = "cpu"
) -> TextStage | TokenizerStage | GenerationStage | DecoderStage:
    """A stage, starting from what the stages before it left in `folder`.

    Raises CheckpointError when that is missing or does not fit the recipe.
    """
    if name == "text":
        encoders = new_text_encoders(recipe.transformer, recipe.text_length, seed=0)
        return TextStage(encoders, seed=0, device=device)
    if name == "tokenizer":
        return TokenizerStage(recipe.tokenizer, recipe.size, 0, recipe.continuous, device)
    _require_part(folder, name, "tokenizer")
    config = VQConfig.from_dict(read_config(folder / "vqvae"))
    # A checkpoint to go on from may be stored in float16, which no optimiser gets far in.
    whole = torch.float32
    vq = load_module(lambda: VQModel(config), read_state_dict(folder / "vqvae"), dtype=whole)
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
            dtype=whole,
        ).requires_grad_(True)
        options = recipe.edit
    # On short sequences a CPU is faster at the backward pass of plain products.
    transformer.attention = math_attention if torch.device(device).type == "cpu" else sdpa
    return GenerationStage(transformer, encoders, vq, options, device)


def _require_part(folder: Path, name: str, earlier: str) -> None:
    part = folder / PART[earlier]
    if not part.is_dir():
        raise CheckpointError(
            f"stage {name!r} goes on from {part}, which is missing; train stage {earlier!r} first"
        )


def export(run: Run, folder: Path) -> None:
    """Write what a stage trained, averaged, with the settings and the scheduler that go with it."""
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
