"""Small pictures for the page: as data URIs, so that the page needs no other file."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...pictures.images import read_image
from ..items import Item
from ..metrics.samples import as_mask, read_pixels
from ..runs import RunFolder

SIZES = (192, 160, 128, 96, 64)
_SAMPLE = 24
_HEAT = np.array(
    [(13, 8, 35), (84, 15, 109), (187, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64
)


def paths_of(item: Item, runs: Mapping[str, RunFolder]) -> dict[str, Path]:
    """The pictures of an item by role; runs by what their result is called.

    With one run also its relevance map.
    """
    first = next(iter(runs.values()))
    found = {"source": first.source(item), **{name: r.picture(item) for name, r in runs.items()}}
    if len(runs) == 1:
        found["map"] = first.map(item)
    if item.reference:
        found["reference"] = first.locate(item.reference)
    if item.mask:
        found["mask"] = first.locate(item.mask)
    return {role: path for role, path in found.items() if path.is_file()}


def thumbnails(paths: Mapping[str, Path], size: int) -> dict[str, str]:
    """Data URIs by role; pictures that cannot be read are left out, the metrics say why.

    size: of the longer side.
    """
    made = {role: _thumbnail(role, path, size) for role, path in paths.items()}
    return {role: uri for role, uri in made.items() if uri}


def links(paths: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Relative addresses of the full pictures, for a page in a folder."""
    return {
        role: Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
        for role, path in paths.items()
        if role != "mask"
    }


def fitting_size(paths: Sequence[Mapping[str, Path]], limit: float) -> int:
    """The largest of SIZES with which all pictures are expected to stay within `limit` MB."""
    step = max(1, len(paths) // _SAMPLE)
    sample = paths[::step]
    for size in SIZES[:-1]:
        total = sum(len(uri) for one in sample for uri in thumbnails(one, size).values())
        if total * len(paths) / max(1, len(sample)) <= limit * 1e6:
            return size
    return SIZES[-1]


@lru_cache(512)  # items in a row often share their source
def _thumbnail(role: str, path: Path, size: int) -> str | None:
    try:
        if role == "map":
            return _encoded(_shrunk(_colored(path), size), "JPEG")
        pixels = read_pixels(path)
    except InputError:
        return None
    if role == "mask":
        return _encoded(_outline(as_mask(pixels.max(-1)), size), "PNG")
    return _encoded(_shrunk(Image.fromarray(pixels), size), "JPEG")


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    image.thumbnail((size, size), Image.Resampling.BOX, reducing_gap=2.0)
    return image


def _colored(path: Path) -> Image.Image:
    """A relevance map from dark (0) to bright (1)."""
    values = read_image(path).pixels[0, ..., 0].numpy().astype(np.float64) * (len(_HEAT) - 1)
    below = np.clip(values.astype(int), 0, len(_HEAT) - 2)
    part = (values - below)[..., None]
    return Image.fromarray(np.rint(_HEAT[below] * (1 - part) + _HEAT[below + 1] * part)
                           .astype(np.uint8))  # fmt: skip


def _outline(mask: np.ndarray, size: int) -> Image.Image:
    """The boundary of a mask: opaque on transparent, one pixel wide at the size of the others."""
    shape = _shrunk(Image.fromarray(mask.astype(np.uint8) * 255), size)
    inside = np.asarray(shape) > 127
    padded = np.pad(inside, 1, mode="edge")
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = Image.fromarray((inside & ~core).astype(np.uint8), "P")
    edge.putpalette([0, 0, 0, 0, 229, 255])
    return edge


def _encoded(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, kind, optimize=True, bits=1, transparency=0)
    else:
        image.save(buffer, kind, quality=80)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}"
