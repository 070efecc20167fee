"""Pictures in a grid, with captions. Plain tensors and PIL."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..editmgt_lib.errors import InputError, counted
from ..editmgt_lib.pictures.lettering import font_for, wrapped

PAPER, INK, EDGE = 1.0, (34, 38, 46), 0.85
LETTERS = (14, 40)  # pixels: the smallest and the largest type


def label_lines(text: str, pictures: int) -> list[str]:
    """One label per picture from lines of text; all empty where there is no text.

    Raises InputError where their numbers differ.
    """
    lines = text.split("\n") if text.strip() else [""] * pictures
    while len(lines) > pictures and not lines[-1].strip():
        lines.pop()
    if len(lines) != pictures:
        raise InputError(
            f"labels has {counted(len(lines), 'line')} for {counted(pictures, 'picture')}; write "
            "one line per picture (an empty line where there is nothing to say), or no labels"
        )
    return [line.strip() for line in lines]


def captioned_grid(pictures: list[Tensor], labels: list[str], columns: int = 0) -> Tensor:
    """Pictures row by row on white paper: float32 [1, h, w, 3] in 0..1.

    pictures: [H, W, 1, 3 or 4] in 0..1, of any sizes. A cell is as high and wide as the largest;
    what is smaller in both is enlarged to it in its own shape, the others keep every value.
    columns: 0 is one row for up to three pictures, and about as many rows as columns for more.
    """
    if not pictures:
        raise InputError("there are no pictures to compare; connect a batch of at least 1")
    columns = min(columns or _columns(len(pictures)), len(pictures))
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    strips = _captions(labels, width)
    gap = max(8, min(height, width) // 24)
    cells = [
        torch.cat([_framed(_at_size(_rgb(picture), height, width)), strip])
        for picture, strip in zip(pictures, strips, strict=True)
    ]
    rows = -(-len(cells) // columns)
    high, wide = cells[0].shape[0] + gap, cells[0].shape[1] + gap
    sheet = torch.full((rows * high + gap, columns * wide + gap, 3), PAPER)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        top, left = row * high + gap, column * wide + gap
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet[None]


def _columns(pictures: int) -> int:
    return pictures if pictures <= 3 else math.ceil(math.sqrt(pictures))


def _rgb(picture: Tensor) -> Tensor:
    """[H, W, 1, 3 or 4] as [H, W, 3]; what is transparent shows the paper."""
    picture = picture.float().cpu()
    if picture.shape[-1] == 4:
        colours, alpha = picture[..., :3], picture[..., 3:]
        return PAPER + alpha * (colours - PAPER)
    return picture.expand(-1, -1, 3)


def _at_size(picture: Tensor, height: int, width: int) -> Tensor:
    """Center in a cell [height, width, 3], enlarged until it touches two sides."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    if scale > 1:
        size = [max(round(side * scale), 1) for side in picture.shape[:2]]
        planes = picture.permute(2, 0, 1)[None]
        grown = F.interpolate(planes, size=size, mode="bicubic", align_corners=False)
        picture = grown[0].permute(1, 2, 0).clamp(0, 1)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell = torch.full((height, width, 3), PAPER)
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell


def _framed(cell: Tensor) -> Tensor:
    """Add a thin frame, so that white pictures have an edge on white paper."""
    return F.pad(cell, (0, 0, 1, 1, 1, 1), value=EDGE)


def _captions(labels: list[str], width: int) -> list[Tensor]:
    """The labels drawn on strips of one size, [h, width + 2, 3]; no height where all are empty."""
    size = min(max(width // 9, LETTERS[0]), LETTERS[1])
    fonts = [font_for(label, size) for label in labels]
    texts = [wrapped(label, font, width) for label, font in zip(labels, fonts, strict=True)]
    step = size * 5 // 4
    most = max(len(lines) for lines in texts) if any(labels) else 0
    strips = []
    for lines, font in zip(texts, fonts, strict=True):
        strip = Image.new("RGB", (width + 2, most * step + size // 3 if most else 0), "white")
        pen = ImageDraw.Draw(strip)
        for number, line in enumerate(lines):
            at = (width / 2 + 1, size // 3 + number * step)
            pen.text(at, line, fill=INK, font=font, anchor="ma")
        strips.append(torch.from_numpy(np.asarray(strip).copy()).float() / 255)
    return strips
