"""Progress pictures of a generation stage, made by the library's own pipeline."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.draws import draws
from ..pipeline import EditMGT
from ..toyworld.batches import save_grid, to_pixels
from ..toyworld.scenes import Scene
from ..toyworld.world import CATEGORIES, caption, pair_at, sample_scene

PICTURES = 14
SEED = 7


def draw_edits(model: EditMGT, path: Path) -> None:
    """Write a grid: held-out pictures, their edits by the model, and the targets."""
    pairs = [pair_at(SEED, i, True, CATEGORIES[i % len(CATEGORIES)]) for i in range(PICTURES)]
    before, target = (_pixels(model, [getattr(p, k) for p in pairs]) for k in ("source", "target"))
    tokens = model.encode_image(before.permute(0, 2, 3, 1))
    instruction = model.encode_instruction([p.instruction for p in pairs])
    edited, _ = model.sample(tokens, instruction, batched=True)
    save_grid([before, _decoded(model, edited.ids), target], path)


def draw_generated(model: EditMGT, path: Path) -> None:
    """Write a grid: held-out scenes, and pictures the model makes from their captions."""
    rng = draws(SEED, 0, "sheet")
    scenes = [sample_scene(rng, heldout=True) for _ in range(PICTURES)]
    instruction = model.encode_instruction([caption(s, rng) for s in scenes])
    made, _ = model.sample(model.blank_tokens(PICTURES), instruction, batched=True)
    save_grid([_pixels(model, scenes), _decoded(model, made.ids)], path)


def _pixels(model: EditMGT, scenes: Sequence[Scene]) -> Tensor:
    return to_pixels(scenes, model.settings.resolution)


@torch.no_grad()
def _decoded(model: EditMGT, ids: Tensor) -> Tensor:
    """Decode without compositing, which would hide changes outside the edit."""
    return model.vq.decode(ids).cpu()
