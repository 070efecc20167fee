"""Batches of ToyWorld pictures as tensors, and grids of pictures as files."""

from collections.abc import Sequence
from dataclasses import replace as with_
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_path
from .atlas import atlas
from .language import ALL_COLORS, BACKGROUNDS, SHAPES, STYLES
from .scenes import TEXTURES, EditPair, Scene, Thing, is_heldout
from .world import in_spare_color, sample_pair, sample_scene, with_bystander

STYLED = 0.15  # share of training pictures in one of the styles
CROWDED_STYLED = 0.4  # more of them, to fill the codebook


def to_pixels(scenes: Sequence[Scene], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Render scenes, equal to `render`: [B, 3, size, size] in 0..1.

    They are assembled on the device from cells already there; drawing on the host and copying would
    take longer than a training step on a GPU.
    """
    numbers = np.stack([atlas(size).numbers(scene) for scene in scenes])
    # [B, rows, cols, edge, edge, 3]
    placed = _cells(size, str(device))[torch.from_numpy(numbers).to(device)]
    pictures = placed.permute(0, 1, 3, 2, 4, 5).reshape(len(scenes), size, size, 3)
    return pictures.permute(0, 3, 1, 2).float().div_(255)


@lru_cache(maxsize=4)
def _cells(size: int, device: str) -> Tensor:
    return torch.from_numpy(atlas(size).cells).to(device)


def training_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of the training split, sometimes in a style."""
    while True:
        scene = sample_scene(rng, heldout=False)
        if rng.random() < STYLED:
            styles = [s for s in STYLES if s != "plain"]
            scene = with_(scene, style=_pick(rng, styles))
        if not is_heldout(scene):
            return scene


def training_pair(rng: np.random.Generator) -> EditPair:
    """Draw an edit neither of whose pictures is held out."""
    while True:
        pair = sample_pair(rng)
        if not is_heldout(pair.target):
            return pair


def spare_pair(rng: np.random.Generator, heldout: bool = False) -> EditPair:
    """Draw an edit that brings in the spare colour: neither picture held out, or the source."""
    while True:
        pair = in_spare_color(sample_pair(rng, heldout=True) if heldout else training_pair(rng))
        if pair and (heldout or not is_heldout(pair.target)):
            return pair


def bystander_pair(rng: np.random.Generator, heldout: bool = False) -> EditPair:
    """Draw an edit that leaves an object of the spare colour alone; held out as in `spare_pair`."""
    while True:
        pair = with_bystander(rng, sample_pair(rng))
        if pair and is_heldout(pair.source) == heldout and (heldout or not is_heldout(pair.target)):
            return pair


def crowded_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene with an object in every slot, from which a tokenizer learns most."""
    things = (Thing(_pick(rng, SHAPES), _pick(rng, ALL_COLORS), slot) for slot in range(9))
    style = _pick(rng, STYLES) if rng.random() < CROWDED_STYLED else "plain"
    return Scene(tuple(things), _pick(rng, BACKGROUNDS), style, int(rng.integers(TEXTURES)))


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Write rows of pictures, each [B, 3, H, W] in 0..1, to one file."""
    from PIL import Image

    grid = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    array = grid.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary)
