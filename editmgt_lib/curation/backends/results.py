"""Results of editors: files that servers send back, which nobody trusts, and their sizes."""

import base64
import binascii
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from ...pictures.images import read_image
from .base import Edited, NoAnswer, Pixels, Size
from .sizes import Placed


def opened(content: bytes, who: str) -> Pixels:
    """Decode a file's content, within limits; transparency lies on white. Raises NoAnswer."""
    try:
        pixels = read_image(content).pixels[0].numpy()
    except (InputError, Image.DecompressionBombError) as error:
        raise NoAnswer("bad_picture", f"{who}: {error}", lasting=False) from error
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:])
    return np.rint(pixels * 255).astype(np.uint8)


def decoded(text: str, who: str) -> Pixels:
    """Decode base64, with or without the head of a data URL. Raises NoAnswer."""
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoAnswer("bad_picture", f"{who}: no base64 ({error})", lasting=False) from error
    return opened(content, who)


def edited(placed: Placed, result: Pixels, size: Size | None, who: str, **facts: Any) -> Edited:
    """Take a result off its canvas; facts: plain data besides the sizes. Raises NoAnswer."""
    got = (result.shape[1], result.shape[0])
    try:
        pixels = placed.take(result, size)
    except InputError as error:
        raise NoAnswer("size", f"{who}: {error}") from error
    return Edited(pixels, {**facts, **placed.facts(got)})
