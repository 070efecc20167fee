"""The contact sheet: pairs with their masks and instructions, as a picture."""

from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate, zip_longest

from PIL import Image, ImageDraw

from ...pictures.lettering import font_for, wrapped
from ..decoding import decode_picture
from .pictures import EDITED, MASK, original_of
from .selection import Pair, has_picture

_CELL, _GAP, _MARGIN, _TOP = 176, 8, 24, 46
_TEXT = 74  # height below the pictures
_ACROSS = 2  # pairs side by side
_HEADINGS = ("before", "after", "changed")
_PAPER, _INK, _FAINT, _RIM = (255, 255, 255), (34, 38, 46), (120, 126, 136), (216, 220, 226)
_WIDTH = 3 * (_CELL + _GAP) + 2 * _GAP  # of a pair


def contact_sheet(pairs: Sequence[Pair]) -> bytes:
    """Draw before, after and mask of pairs, with instruction, kind and id, as PNG. InputError."""
    pictures = [_small(pair) for pair in pairs]
    lines = [range(k, min(k + _ACROSS, len(pairs))) for k in range(0, len(pairs), _ACROSS)]
    heights = [max(p.height for k in line for p in pictures[k]) + _TEXT for line in lines]
    tops = list(accumulate(heights, initial=_TOP))
    sheet = Image.new("RGB", (2 * _MARGIN + _ACROSS * _WIDTH, tops[-1] + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column in range(min(_ACROSS, len(pairs))):
        for number, heading in enumerate(_HEADINGS):
            left = _MARGIN + column * _WIDTH + number * (_CELL + _GAP)
            pen.text((left, _TOP - 24), heading, fill=_FAINT, font=font_for(heading, 15))
    for line, top in zip(lines, tops, strict=False):
        for column, k in enumerate(line):
            left = _MARGIN + column * _WIDTH
            for number, picture in enumerate(pictures[k]):
                _paste(sheet, picture, (left + number * (_CELL + _GAP), top))
            below = top + max(picture.height for picture in pictures[k]) + 5
            _describe(pen, pairs[k], (left, below))
    return _encoded(sheet)


def _small(pair: Pair) -> list[Image.Image]:
    """Before, after and, where there is one, the mask."""
    row, small = pair.row, []
    masks = [row.encoded(MASK)] if has_picture(row, MASK) else []
    for data in (original_of(row), row.encoded(EDITED), *masks):
        image = Image.fromarray(decode_picture(data).rgb)
        scale = _CELL / max(image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        small.append(image.resize(size, Image.Resampling.LANCZOS))
    return small


def _paste(sheet: Image.Image, picture: Image.Image, at: tuple[int, int]) -> None:
    sheet.paste(picture, at)
    box = (at[0] - 1, at[1] - 1, at[0] + picture.width, at[1] + picture.height)
    ImageDraw.Draw(sheet).rectangle(box, outline=_RIM)


def _encoded(sheet: Image.Image) -> bytes:
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _describe(pen: ImageDraw.ImageDraw, pair: Pair, at: tuple[int, int]) -> None:
    cells, width = pair.cells, 3 * (_CELL + _GAP) - _GAP
    font = font_for(cells["instruction"], 16)
    lines = wrapped(cells["instruction"], font, width)
    lines = lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-1]}…"]
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + 19 * number), line, fill=_INK, font=font)
    changed = cells["changed"]
    facts = [cells["type"], cells["editor"] or "", cells["id"]]
    facts += [] if changed is None else [f"{100 * changed:.1f} % changed"]
    small = font_for(" ".join(facts), 12)
    text = wrapped("  ·  ".join(filter(None, facts)), small, width)[0]
    pen.text((at[0], at[1] + 19 * len(lines) + 3), text, fill=_FAINT, font=small)


def spread(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many pairs, the types in turns."""
    by_type: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.cells["type"]):
        by_type.setdefault(pair.cells["type"], []).append(pair)
    turns = zip_longest(*by_type.values())
    return [pair for turn in turns for pair in turn if pair is not None][:most]
