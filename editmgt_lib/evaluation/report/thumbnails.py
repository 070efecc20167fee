"""Small pictures of a run's items for its page."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...pages.thumbnails import outline_uri, picture_uri
from ...pictures.images import read_image
from ..items import Item
from ..manifest import version_of
from ..metrics.samples import as_mask, read_pixels
from ..runs import RunFolder

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
    made = {role: _thumbnail(role, path, size, version_of(path)) for role, path in paths.items()}
    return {role: uri for role, uri in made.items() if uri}


def links(paths: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Relative addresses of the full pictures, for a page in a folder."""
    return {
        role: Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
        for role, path in paths.items()
        if role != "mask"
    }


@lru_cache(512)  # items in a row often share their source
def _thumbnail(role: str, path: Path, size: int, _: tuple[int, int]) -> str | None:
    try:
        if role == "map":
            return picture_uri(_colored(path), size)
        pixels = read_pixels(path)
    except InputError:
        return None
    if role == "mask":
        return outline_uri(as_mask(pixels.max(-1)), size)
    return picture_uri(Image.fromarray(pixels), size)


def _colored(path: Path) -> Image.Image:
    """A relevance map from dark (0) to bright (1)."""
    values = read_image(path).pixels[0, ..., 0].numpy().astype(np.float64) * (len(_HEAT) - 1)
    below = np.clip(values.astype(int), 0, len(_HEAT) - 2)
    part = (values - below)[..., None]
    return Image.fromarray(np.rint(_HEAT[below] * (1 - part) + _HEAT[below + 1] * part)
                           .astype(np.uint8))  # fmt: skip
