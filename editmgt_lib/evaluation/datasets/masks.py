"""Masks as benchmarks keep them, made white (255) where to edit."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...errors import InputError


def run_length_mask(runs: Sequence[int], height: int = 512, width: int = 512) -> np.ndarray:
    """Decode PIE-Bench's mask: bool [height, width], True where to edit.

    runs: start, length, start, length... on the row-major grid, clipped at its end. The one-pixel
    border counts as edited whatever they say, as in the official scorer.
    Raises InputError for an odd number of values, or values that are no counts.
    """
    if len(runs) % 2 or any(type(value) is not int or value < 0 for value in runs):
        raise InputError("mask is no list of starts and lengths, whole numbers from 0 up")
    mask = np.zeros(height * width, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    mask = mask.reshape(height, width)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def alpha_mask(picture: bytes, where: str) -> np.ndarray | None:
    """The region to edit of a MagicBrush mask: bool [H, W]; None where the picture names none.

    The published masks are the source picture with that region erased: transparent is to edit
    (alpha below 255), whatever the colours there. A copy without transparency counts only if it is
    grey: white is to edit. Raises InputError if the picture cannot be read.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            values = np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: the mask cannot be read ({error}); fetch it again") from error
    mask = values[..., 3] < 255
    if not mask.any() and (values[..., :3] == values[..., :1]).all():
        mask = values[..., 0] > 127
    return mask if mask.any() else None


def mask_bytes(mask: np.ndarray) -> bytes:
    """Encode a mask [H, W] as a PNG of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()
