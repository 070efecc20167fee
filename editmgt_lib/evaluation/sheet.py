"""Contact sheets: what a model did, to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files import atomic_path
from ..pictures.drawing import heat_map
from ..pictures.lettering import fitting_font, wrapped
from ..toyworld.world import render
from .report import Row

_CELL, _GAP, _MARGIN = 144, 12, 22
_TEXT = 210
_HEADINGS = ("source", "instruction", "attention", "held (pale)", "result", "target", "")
_PAPER, _INK, _FAINT = (255, 255, 255), (34, 38, 46), (120, 126, 136)
_GOOD, _BAD = (30, 150, 80), (208, 52, 44)


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Source, instruction, attention, held tokens, result, target and verdict of every row.

    rows: from `Report.rows`; they stay in order. The result is the one made with region-hold; of
    edits of the whole picture, which leave nothing to hold, the one without.
    Raises InputError without a row.
    """
    _require(rows)
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


def hero(rows: Sequence[Row], count: int = 6) -> Image.Image:
    """Source, arrow, result, the instruction below: `count` pairs in three columns.

    Meant for a README: of each category the first success is shown, a failure only where there is
    none; categories in the order of the rows, then their further rows.
    Raises InputError without a row.
    """
    _require(rows)
    chosen = _best_of_each(rows)[: max(count, 1)]
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    width, height = 2 * _CELL + 40, _CELL + 34
    size = (
        2 * _MARGIN + columns * width + (columns - 1) * 2 * _MARGIN,
        2 * _MARGIN + lines * height + (lines - 1) * _MARGIN - 6,
    )
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen):
        line, column = divmod(number, columns)
        left = _MARGIN + column * (width + 2 * _MARGIN)
        top = _MARGIN + line * (height + _MARGIN)
        _paste(sheet, row.source, (left, top), _CELL)
        _paste(sheet, row.result, (left + _CELL + 40, top), _CELL)
        _arrow(pen, (left + _CELL + 9, top + _CELL // 2))
        text = f"“{row.pair.instruction}”"
        font = fitting_font(text, width)
        middle = (left + width // 2, top + _CELL + 9)
        pen.text(middle, text, fill=_INK, font=font, anchor="ma")
    return sheet


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all; its name says the format. Raises InputError."""
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
    """The picture [H, W, 3] with held tokens, bool [rows, cols], pale and grey."""
    rows, cols = held.shape
    scale = (picture.shape[0] // rows, picture.shape[1] // cols)
    mask = np.kron(held, np.ones(scale)) > 0
    pale = 0.82 + 0.14 * picture.mean(-1, keepdims=True)
    return np.where(mask[..., None], pale, picture)


def _require(rows: Sequence[Row]) -> None:
    if not rows:
        raise InputError("rows is empty; evaluate with rows of at least 1")


def _best_of_each(rows: Sequence[Row]) -> list[Row]:
    ordered = sorted(rows, key=lambda row: not row.verdict.succeeded)  # stable
    names = dict.fromkeys(row.pair.category for row in rows)
    by_category = [[r for r in ordered if r.pair.category == name] for name in names]
    most = max(map(len, by_category))
    return [some[rank] for rank in range(most) for some in by_category if rank < len(some)]


def _lefts() -> list[int]:
    """Left edge of every column."""
    widths = (_CELL, _TEXT, _CELL, _CELL, _CELL, _CELL)
    lefts = [_MARGIN]
    for width in widths:
        lefts.append(lefts[-1] + width + _GAP)
    return lefts


def _paste(sheet: Image.Image, picture: np.ndarray, at: tuple[int, int], side: int) -> None:
    array = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(array)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    sheet.paste(image, at)
    x, y = at
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + side, y + side), outline=(216, 220, 226))


def _describe(pen: ImageDraw.ImageDraw, row: Row, at: tuple[int, int]) -> None:
    """Category, instruction, and what is wrong with the result."""
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
    """A tick on green or a cross on red."""
    x, y = at
    pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=_GOOD if good else _BAD)
    if good:
        pen.line([(x - 7, y + 1), (x - 2, y + 6), (x + 7, y - 5)], fill=_PAPER, width=3)
        return
    for dx in (-6, 6):
        pen.line([(x - dx, y - 6), (x + dx, y + 6)], fill=_PAPER, width=3)


def _arrow(pen: ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
    x, y = at
    pen.line([(x, y), (x + 18, y)], fill=_FAINT, width=3)
    pen.polygon([(x + 14, y - 6), (x + 23, y), (x + 14, y + 6)], fill=_FAINT)
