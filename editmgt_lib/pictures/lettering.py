"""Fonts and line breaks for text drawn into pictures."""

import functools
from collections.abc import Iterator

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

# Where a system has one of these, they know what Pillow's own font does not: Greek, accents,
# Chinese, Japanese, Korean.
_SYSTEM = (
    "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc",
    "PingFang.ttc", "wqy-microhei.ttc",
)  # fmt: skip


def font_for(text: str, size: int) -> Font:
    """Pillow's own font, `size` pixels high; a system's where that has more letters of `text`.

    Nothing needs to be installed: letters that the font lacks are drawn as boxes.
    """
    own = ImageFont.load_default(size)
    if text.isascii():
        return own
    return min((own, *_system_fonts(size)), key=lambda font: _missing(font, text))


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels; words are broken only where one alone is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _system_fonts(size: int) -> Iterator[Font]:
    return filter(None, (_system_font(name, size) for name in _SYSTEM))


@functools.cache  # a name that is not there costs a walk through all font folders
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None


def _missing(font: Font, text: str) -> int:
    """How many letters come out as the box that stands for an unknown one."""
    box = bytes(font.getmask("\uffff"))
    return sum(bytes(font.getmask(letter)) == box for letter in text if letter.strip())
