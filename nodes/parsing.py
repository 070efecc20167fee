"""Parsing of text widgets."""

import math
import re

from ..editmgt_lib.errors import InputError, counted
from ..editmgt_lib.text.words import split_phrases

AUTO = "auto"  # leaves it to the checkpoint


def own_or(text: str) -> str | None:
    """Return the text, or None, the checkpoint's default, for "auto"."""
    return None if text.strip() == AUTO else text.strip()


def block_range(text: str) -> tuple[int, int] | None:
    """Parse '28-36', or one number as a range of one; None if empty. Raises InputError."""
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*(\d+)\s*(?:(?:-|\.\.|,|:)\s*(\d+)\s*)?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise InputError(f"layers is {text!r}; use first and last block, as in 28-36, or nothing")
    return first, last


def text_lines(text: str) -> list[str]:
    """Lines that are not blank, without what surrounds them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def line_per_mask(text: str, masks: int) -> list[str]:
    """Lines of a text, one per mask. Raises InputError for any other number of them."""
    lines = text_lines(text)
    if len(lines) != masks:
        raise InputError(
            f"instructions has {counted(len(lines), 'line')} for {counted(masks, 'mask')}; write "
            "one line per mask"
        )
    return lines


def value_list(text: str) -> list[str]:
    """Split 'a, b', or texts with commas into lines if there are several.

    Raises InputError unless there are numbers alone or texts alone, at least one.
    """
    values, lines = list(split_phrases(text)), text_lines(text)
    if len(lines) > 1 and not all(map(_is_number, values)):
        values = lines
    if not values:
        raise InputError("values is empty; write some separated by commas, as in 0, 0.1, 0.2")
    texts = [value for value in values if not _is_number(value)]
    if 0 < len(texts) < len(values):
        raise InputError(f"values has numbers and the text {texts[0]!r}; write only one kind")
    return values


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def number(text: str) -> float:
    """Read one finite number. Raises InputError."""
    if not _is_number(text):
        raise InputError(f"{text!r} is not a number; write one, or use the output TEXT")
    return float(text)


def whole_number(text: str) -> int:
    """Read one whole number of any length, such as a seed. Raises InputError."""
    try:
        return int(text)  # exact, where a float would round a long seed
    except ValueError:
        value = number(text)
    if not value.is_integer():
        raise InputError(f"{text!r} is not a whole number; write one, or use the output FLOAT")
    return int(value)
