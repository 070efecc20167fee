"""One edit as its metrics see it: 8-bit RGB pictures, a mask and captions.

Sizes that differ are resized in two ways only, and the names of the metrics say which:
"fit-output" resizes the result to the picture it is compared with (as MagicBrush does),
"fit-target" resizes that picture to the result (as AnyBench does); both with Pillow's bicubic
filter, its default for pictures. A mask follows the pictures with the nearest pixel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import InputError
from ...pictures.images import read_image
from ..items import Item

Pixels = np.ndarray
"""uint8 [H, W, 3]."""


class Feature(NamedTuple):
    """What a network makes of a view of a sample.

    how: one of the network's ways, such as "crop", "squash" or "text".
    view: role of a picture, "result-fitted" (at the source's size), "result-edited" (also black
    outside the mask) or "caption:KIND".
    """

    network: str
    how: str
    view: str

    @property
    def is_caption(self) -> bool:
        return self.view.startswith("caption:")


@dataclass(frozen=True, eq=False)
class Sample:
    """What there is to score of one item.

    Attributes:
        id: of the item.
        pictures: uint8 [H, W, 3] by role: "result", "source", "target" (the item's reference) and
            "emu-output"; what does not exist is left out.
        mask: bool [H, W], True where to edit.
        captions: by kind, as in `Item.captions`.
        failure: why there is no result to score; then "result" is left out.
        extra: of the item, for metrics that one dataset alone has.
        relevance: float32 [H, W] in 0..1, the editor's map, if it gives one.
        features: filled by `score`; None where a caption is too long for the network.
    """

    id: str
    pictures: Mapping[str, Pixels]
    mask: np.ndarray | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    relevance: np.ndarray | None = None
    features: dict[Feature, np.ndarray | None] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], tuple[Pixels, Pixels]] = field(default_factory=dict)

    def pair(self, role: str, fit: str = "fit-output") -> tuple[Pixels, Pixels]:
        """The result and the picture to compare it with, at one size."""
        if (role, fit) not in self._pairs:
            result, other = self.pictures["result"], self.pictures[role]
            if fit == "fit-output":
                result = resized(result, other.shape[:2])
            else:
                other = resized(other, result.shape[:2])
            self._pairs[role, fit] = result, other
        return self._pairs[role, fit]

    def view(self, name: str) -> Pixels | str:
        """A picture or caption that networks encode; see `Feature.view`."""
        if name.startswith("caption:"):
            return self.captions[name.removeprefix("caption:")]
        if name == "result-fitted":
            return self.pair("source")[0]
        if name == "result-edited":
            result = self.pair("source")[0]
            return zeroed(result, self.mask_for(result))
        return self.pictures[name]

    def mask_for(self, picture: Pixels) -> np.ndarray:
        """The mask at the size of a picture."""
        height, width = picture.shape[:2]
        if self.mask.shape == (height, width):
            return self.mask
        image = Image.fromarray(self.mask.astype(np.uint8))
        return np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) > 0


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (height, width) with Pillow's bicubic filter."""
    if picture.shape[:2] == size:
        return picture
    image = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image)


def zeroed(picture: Pixels, where: np.ndarray) -> Pixels:
    """The picture with all pixels outside `where` black."""
    return picture * where[..., None].astype(picture.dtype)


def as_mask(values: np.ndarray) -> np.ndarray:
    """Binarize a mask at half its range; True where to edit.

    values: bool, floats in 0..1, or whole numbers in 0..255. Whole numbers of which none exceeds 1
    are 0 and 1: a threshold of 128 would find no edit in them.
    """
    if values.dtype == bool:
        return values
    if np.issubdtype(values.dtype, np.floating):
        return values > 0.5
    return values > (0 if values.max(initial=0) <= 1 else 127)


def read_pixels(path: Path) -> Pixels:
    """Read a picture as 8-bit RGB, transparency ignored. Raises InputError as `read_image`."""
    pixels = read_image(path).pixels[0, ..., :3].numpy()
    return np.rint(pixels * 255).astype(np.uint8)


def read_sample(
    item: Item, result: Path | None, locate: Callable[[str], Path], relevance: Path | None = None
) -> Sample:
    """Read the pictures of an item and of its result.

    result: None, or a path where nothing is, is a failure of the editor, as is a picture that
    cannot be read or is entirely black (what a safety checker leaves).
    relevance: the map that belongs to the result; there need be none.
    locate: turns the paths that an `Item` holds into real ones. Emu Edit's own output is taken
    from `item.extra["emu_output"]`.
    Raises InputError for a picture of the data that cannot be read.
    """
    paths = {
        "source": item.source,
        "target": item.reference,
        "emu-output": item.extra.get("emu_output"),
    }
    pictures = {role: read_pixels(locate(path)) for role, path in paths.items() if path}
    mask = as_mask(read_pixels(locate(item.mask)).max(-1)) if item.mask else None
    output, failure = _read_result(result)
    if output is not None:
        pictures["result"] = output
    shown = None
    if relevance is not None and relevance.is_file() and not failure:
        shown = read_image(relevance).pixels[0, ..., 0].numpy()
    return Sample(item.id, pictures, mask, item.captions, failure, item.extra, shown)


def _read_result(path: Path | None) -> tuple[Pixels | None, str]:
    if path is None or not path.is_file():
        return None, "there is no picture"
    try:
        pixels = read_pixels(path)
    except InputError as error:
        return None, str(error)
    return (pixels, "") if pixels.any() else (None, "the picture is entirely black")
