"""Batches of ToyWorld pictures as tensors, and grids of pictures as files."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_path
from .drawing import BOX, GRID, SLOT_OFFSETS, ground_picture, sprite
from .scenes import EditPair, Scene, Thing, is_heldout
from .world import BACKGROUNDS, COLORS, SHAPES, STYLES, sample_pair, sample_scene

STYLED = 0.15  # share of training pictures in one of the styles
CROWDED_STYLED = 0.3  # more of them, to fill the codebook


Look = tuple[str, str, str, str]  # style, background, shape, colour: what pixels depend on
THING_CELLS = np.arange(BOX * BOX).reshape(BOX, BOX)


def to_pixels(scenes: Sequence[Scene], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Render scenes, equal to `render`: [B, 3, size, size] in 0..1.

    They are assembled on the device from cells already there; drawing on the host and copying would
    take longer than a training step on a GPU.
    """
    cells, first = _atlas(size, str(device))
    numbers = np.empty((len(scenes), GRID, GRID), np.int64)
    for cell, scene in zip(numbers, scenes, strict=True):
        cell[:] = first[_look(scene)]
        for thing in scene.things:
            row, col = (SLOT_OFFSETS[i] for i in divmod(thing.slot, 3))
            cell[row : row + BOX, col : col + BOX] = first[_look(scene, thing)] + THING_CELLS
    placed = cells[torch.from_numpy(numbers).to(device)]  # [B, rows, cols, edge, edge, 3]
    pictures = placed.permute(0, 1, 3, 2, 4, 5).reshape(len(scenes), size, size, 3)
    return pictures.permute(0, 3, 1, 2).float().div_(255)


@lru_cache(maxsize=4)
def _atlas(size: int, device: str) -> tuple[Tensor, dict[Look, int]]:
    """All distinct cells, uint8 [N, edge, edge, 3], and the index of each look's first one.

    A ground is a single cell; a thing is BOX x BOX cells in reading order.
    """
    edge = size // GRID
    first: dict[Look, int] = {}
    cells: list[np.ndarray] = []
    for look in _looks():
        style, background, shape, color = look
        if shape:
            picture = sprite(shape, color or COLORS[0], background or BACKGROUNDS[0], style, size)
        else:
            picture = ground_picture(background or BACKGROUNDS[0], style, size)[:edge, :edge]
        side = len(picture) // edge
        first[look] = len(cells)
        cells += [
            *picture.reshape(side, edge, side, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3)
        ]
    return torch.from_numpy(np.stack(cells)).to(device), first


def _look(scene: Scene, thing: Thing | None = None) -> Look:
    """What determines the pixels of a thing, or of the ground."""
    shape = thing.shape if thing else ""
    if scene.style != "plain":
        return scene.style, "", shape, ""
    return scene.style, scene.background, shape, thing.color if thing else ""


def _looks() -> Iterator[Look]:
    """All looks."""
    for style, shape in product(STYLES, ("", *SHAPES)):
        if style != "plain":
            yield style, "", shape, ""
            continue
        for background, color in product(BACKGROUNDS, COLORS if shape else ("",)):
            yield style, background, shape, color


def training_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of the training split, sometimes in a style."""
    while True:
        scene = sample_scene(rng, heldout=False)
        if rng.random() < STYLED:
            styles = [s for s in STYLES if s != "plain"]
            scene = Scene(scene.things, scene.background, _pick(rng, styles))
        if not is_heldout(scene):
            return scene


def training_pair(rng: np.random.Generator) -> EditPair:
    """Draw an edit neither of whose pictures is held out."""
    while True:
        pair = sample_pair(rng)
        if not is_heldout(pair.target):
            return pair


def crowded_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene with an object in every slot, from which a tokenizer learns most."""
    things = (Thing(_pick(rng, SHAPES), _pick(rng, COLORS), slot) for slot in range(9))
    style = _pick(rng, STYLES) if rng.random() < CROWDED_STYLED else "plain"
    return Scene(tuple(things), _pick(rng, BACKGROUNDS), style)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Write rows of pictures, each [B, 3, H, W] in 0..1, to one file."""
    from PIL import Image

    grid = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    array = grid.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary)
