"""Batches of ToyWorld pictures as tensors, and grids of pictures as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_path
from ..toyworld.scenes import EditPair, Scene, Thing, is_heldout, render
from ..toyworld.world import BACKGROUNDS, COLORS, SHAPES, STYLES, sample_pair, sample_scene

STYLED = 0.15  # share of training pictures in one of the styles
CROWDED_STYLED = 0.3  # more of them where there is a codebook to fill


def to_pixels(scenes: Sequence[Scene], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Rendered scenes as [B, 3, size, size] in 0..1."""
    stacked = np.stack([render(scene, size) for scene in scenes])
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float().div_(255)


def training_scene(rng: np.random.Generator) -> Scene:
    """A scene of the training split, sometimes in a style."""
    while True:
        scene = sample_scene(rng, heldout=False)
        if rng.random() < STYLED:
            styles = [s for s in STYLES if s != "plain"]
            scene = Scene(scene.things, scene.background, _pick(rng, styles))
        if not is_heldout(scene):
            return scene


def training_pair(rng: np.random.Generator) -> EditPair:
    """An edit of the training split: neither of its pictures is a held-out one."""
    while True:
        pair = sample_pair(rng)
        if not is_heldout(pair.target):
            return pair


def crowded_scene(rng: np.random.Generator) -> Scene:
    """A scene with an object in every slot: what a tokenizer learns most from."""
    things = (Thing(_pick(rng, SHAPES), _pick(rng, COLORS), slot) for slot in range(9))
    style = _pick(rng, STYLES) if rng.random() < CROWDED_STYLED else "plain"
    return Scene(tuple(things), _pick(rng, BACKGROUNDS), style)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Write rows of pictures, each [B, 3, H, W] in 0..1, as one file."""
    from PIL import Image

    grid = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    array = grid.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary)
