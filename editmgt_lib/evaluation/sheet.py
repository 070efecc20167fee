"""Contact sheets of edits."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files import atomic_path
from ..pictures.drawing import heat_map
from ..pictures.lettering import wrapped
from ..toyworld.world import render
from .report.toyworld import Row

_CELL, _GAP, _MARGIN = 144, 12, 22
_TEXT = 210
_HEADINGS = ("source", "instruction", "attention", "held (pale)", "result", "target", "")
_PAPER, _INK, _FAINT = (255, 255, 255), (34, 38, 46), (120, 126, 136)
_GOOD, _BAD = (30, 150, 80), (208, 52, 44)


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw source, instruction, attention, held tokens, result, target and verdict of every row.

    rows: as `Report.rows`. Raises InputError if there are none.
    """
    if not rows:
        raise InputError("rows is empty; evaluate with rows of at least 1")
    lefts = _lefts()
    height = _CELL + _GAP
    size = (lefts[-1] + 44 + _MARGIN, 44 + _MARGIN + height * len(rows))
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for left, heading in zip(lefts, _HEADINGS, strict=True):
        pen.text((left, 16), heading, fill=_FAINT, font=ImageFont.load_default(15))
    for number, row in enumerate(rows):
        top = 44 + number * height
        target = render(row.pair.target, row.source.shape[0]) / np.float32(255)
        pictures = {
            0: row.source,
            2: heat_over(row.source, row.relevance),
            3: held_over(row.source, row.held),
            4: row.result,
            5: target,
        }
        for column, picture in pictures.items():
            _paste(sheet, picture, (lefts[column], top), _CELL)
        _describe(pen, row, (lefts[1], top))
        _mark(pen, row.verdict.succeeded, (lefts[6] + 18, top + _CELL // 2))
    return sheet


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture atomically, in the format of its extension. Raises InputError."""
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise InputError(f"cannot write {path}: unknown picture format; use a name ending in .png")
    with atomic_path(path) as temporary:
        picture.save(temporary)


def heat_over(picture: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """A relevance map [rows, cols] in 0..1 in colours over the picture [H, W, 3]."""
    height, width = picture.shape[:2]
    field = Image.fromarray(np.clip(relevance, 0, 1).astype(np.float32))
    grown = np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))
    pixels, heat = torch.from_numpy(picture)[None], torch.from_numpy(grown.copy())[None]
    return heat_map(pixels, heat)[0].numpy()


def held_over(picture: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Fade the held tokens, bool [rows, cols], of the picture [H, W, 3]."""
    rows, cols = held.shape
    scale = (picture.shape[0] // rows, picture.shape[1] // cols)
    mask = np.kron(held, np.ones(scale)) > 0
    pale = 0.82 + 0.14 * picture.mean(-1, keepdims=True)
    return np.where(mask[..., None], pale, picture)


def _lefts() -> list[int]:
    """Left edge of every column."""
    widths = (_CELL, _TEXT, _CELL, _CELL, _CELL, _CELL)
    return list(accumulate((width + _GAP for width in widths), initial=_MARGIN))


def _paste(sheet: Image.Image, picture: np.ndarray, at: tuple[int, int], side: int) -> None:
    array = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(array)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    sheet.paste(image, at)
    x, y = at
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + side, y + side), outline=(216, 220, 226))


def _describe(pen: ImageDraw.ImageDraw, row: Row, at: tuple[int, int]) -> None:
    """Write category, instruction and faults."""
    parts = [(row.pair.category, _FAINT, 13, 1), (row.pair.instruction, _INK, 16, 4)]
    parts += [(str(fault), _BAD, 12, 2) for fault in row.verdict.faults[:2]]
    if (more := len(row.verdict.faults) - 2) > 0:
        parts.append((f"and {more} more", _BAD, 12, 1))
    y = at[1]
    for text, color, size, most in parts:
        font = ImageFont.load_default(size)
        for line in wrapped(text, font, _TEXT - 8)[:most]:
            if y + size > at[1] + _CELL:
                return
            pen.text((at[0], y), line, fill=color, font=font)
            y += size + 4
        y += 4


def _mark(pen: ImageDraw.ImageDraw, good: bool, at: tuple[int, int]) -> None:
    """Draw a tick on green or a cross on red."""
    x, y = at
    pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=_GOOD if good else _BAD)
    if good:
        pen.line([(x - 7, y + 1), (x - 2, y + 6), (x + 7, y - 5)], fill=_PAPER, width=3)
        return
    for dx in (-6, 6):
        pen.line([(x - dx, y - 6), (x + dx, y + 6)], fill=_PAPER, width=3)
