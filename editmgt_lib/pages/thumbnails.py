"""Small pictures as data URIs, so that a page needs no other file."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

SIZES = (192, 160, 128, 96, 64)
_SAMPLE = 24


def fitting_size(make: Callable[[int, int], Mapping[str, str]], items: int, limit: float) -> int:
    """The largest of SIZES with which all pictures are expected to stay within `limit` MB.

    make: gives the pictures of an item, by its number, at a size.
    """
    sample: Sequence[int] = range(0, items, max(1, items // _SAMPLE))
    for size in SIZES[:-1]:
        total = sum(len(uri) for item in sample for uri in make(item, size).values())
        if total * items / max(1, len(sample)) <= limit * 1e6:
            return size
    return SIZES[-1]


def picture_uri(image: Image.Image, size: int) -> str:
    """A picture as JPEG; size: of the longer side."""
    buffer = io.BytesIO()
    _shrunk(image, size).save(buffer, "JPEG", quality=80)
    return _uri(buffer, "jpeg")


def outline_uri(mask: np.ndarray, size: int) -> str:
    """The boundary of a mask, bool [H, W]: opaque on transparent, one pixel wide."""
    shape = _shrunk(Image.fromarray(mask.astype(np.uint8) * 255), size)
    inside = np.asarray(shape) > 127
    padded = np.pad(inside, 1, mode="edge")
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = Image.fromarray((inside & ~core).astype(np.uint8), "P")
    edge.putpalette([0, 0, 0, 0, 229, 255])
    buffer = io.BytesIO()
    edge.save(buffer, "PNG", optimize=True, bits=1, transparency=0)
    return _uri(buffer, "png")


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    image.thumbnail((size, size), Image.Resampling.BOX, reducing_gap=2.0)
    return image


def _uri(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
