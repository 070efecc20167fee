"""Parsing of text widgets."""

import math
import re

from ..editmgt_lib.errors import InputError
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


def number_list(text: str) -> list[float]:
    """Parse '0, 0.1'. Raises InputError unless there are only finite numbers, at least one."""
    try:
        numbers = [float(word) for word in split_phrases(text)]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"values is {text!r}; write numbers separated by commas, as in 0, 0.1, 0.2"
        )
    return numbers
