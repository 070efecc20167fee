"""`editmgt train`: the stages of a recipe one after the other, each going on where it stopped."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoints.loading import load_module
from ..checkpoints.reading import read_config, read_state_dict
from ..errors import InputError
from ..files import atomic_write_json
from ..localization import LocalizationOptions
from ..models.text import TextTowers
from ..models.transformer import MaskedTransformer
from ..models.vq import VQConfig, VQModel
from ..sampling import SamplingOptions
from ..settings import Settings
from ..toyworld.language import corpus
from ..toyworld.text_towers import build_towers
from .generation import GenerationStage
from .initial import new_transformer, plain_attention
from .loop import Run, train
from .recipes import RECIPES, STAGES, Recipe
from .tokenizer import TokenizerStage

CHECKPOINT = "checkpoint"


def run_training(
    recipe: str,
    out: Path,
    *,
    stages: Sequence[str] = STAGES,
    minutes: float | None = None,
    threads: int | None = None,
    steps: int | None = None,
) -> Path:
    """Train the named stages into `out`; returns the folder of the checkpoint.

    Args:
        recipe: a name in `RECIPES`. out: holds a folder per stage (state, pictures) and `checkpoint`.
        minutes: stop each stage after so long; run again to go on. steps: replaces every stage's.

    Raises:
        InputError: unknown recipe or stage. CheckpointError: a stage needs one that did not run.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe is {recipe!r}; use one of {', '.join(RECIPES)}")
    unknown = [s for s in stages if s not in STAGES]
    if unknown:
        raise InputError(f"stage {unknown[0]!r} is unknown; use {', '.join(STAGES)}")
    if threads:
        torch.set_num_threads(threads)
    chosen = RECIPES[recipe]
    for name in (s for s in STAGES if s in stages):
        loop = chosen.loops[name]
        if steps:
            loop = replace(loop, steps=steps, cooldown=min(loop.cooldown, steps // 2))
        stage = build_stage(name, chosen, out / CHECKPOINT)
        run = train(stage, loop, out / name, name=name, minutes=minutes)
        export(run, chosen, out / CHECKPOINT)
        if run.step < loop.steps:
            break
    return out / CHECKPOINT


def build_stage(name: str, recipe: Recipe, folder: Path) -> TokenizerStage | GenerationStage:
    """A stage, starting from what the stages before it left in `folder`."""
    if name == "tokenizer":
        return TokenizerStage(recipe.tokenizer, recipe.size, 0, recipe.continuous)
    config = VQConfig.from_dict(read_config(folder / "vqvae"))
    vq = load_module(lambda: VQModel(config), read_state_dict(folder / "vqvae"))
    if name == "text-to-image":
        towers = build_towers(corpus(), text_length=recipe.text_length)
        transformer = new_transformer(recipe.transformer, seed=0)
        return GenerationStage(transformer, towers, vq, recipe.generation)
    towers = TextTowers.from_folder(folder, text_length=recipe.text_length)
    transformer = load_module(
        lambda: MaskedTransformer(recipe.transformer, attention=plain_attention),
        read_state_dict(folder / "editmgt"),
    ).requires_grad_(True)
    return GenerationStage(transformer, towers, vq, recipe.edit)


def export(run: Run, recipe: Recipe, folder: Path) -> None:
    """Write what a stage trained, averaged, and the settings and scheduler that go with it."""
    run.with_averages(lambda: run.stage.export(folder))
    if isinstance(run.stage, TokenizerStage):
        return
    steps = recipe.edit.steps
    sampling = SamplingOptions(steps=steps, guidance=3.0, strength=recipe.edit.strength)
    localization = LocalizationOptions()
    settings = Settings(recipe.size, recipe.text_length, "", sampling, localization)
    atomic_write_json(folder / "editmgt.json", settings.to_dict())
    mask_id = recipe.transformer.mask_token_id
    scheduler = {"mask_token_id": mask_id, "masking_schedule": sampling.schedule}
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / "scheduler" / "scheduler_config.json", scheduler)


def shrink(folder: Path, target: Path) -> None:
    """Copy a checkpoint with its weights in float16, for shipping."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target, dirs_exist_ok=True)
    for file in target.rglob("*.safetensors"):
        tensors = load_file(str(file))
        half = {n: t.half() if t.dtype == torch.float32 else t for n, t in tensors.items()}
        save_file(half, str(file), metadata={"format": "pt"})
