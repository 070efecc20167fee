"""From a picture's size to one an editor keeps, and back: scaled evenly and padded."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np

from ...checks import require_number
from ...errors import InputError

Size = tuple[int, int]


@dataclass(frozen=True)
class Sizing:
    """The sizes (width, height) an editor gives back as it got them.

    Attributes:
        multiple: of both sides. most: pixels; larger pictures are made smaller.
        sizes: the only ones, if not empty; the other fields are not read then.
    """

    multiple: int = 1
    most: int | None = None
    sizes: tuple[Size, ...] = ()

    def __post_init__(self) -> None:
        require_number("multiple", self.multiple, 1, 1024, whole=True)
        if self.most is not None:
            require_number("most", self.most, self.multiple**2, whole=True)
        for size in self.sizes:
            if len(size) != 2:
                raise InputError(f"sizes holds {size!r}; give width and height")
            for side in size:
                require_number("a side of sizes", side, 1, 1 << 16, whole=True)


@dataclass(frozen=True)
class Placed:
    """size: of the picture. scaled: evenly. canvas: with padding at the right and below."""

    size: Size
    scaled: Size
    canvas: Size

    def put(self, pixels: np.ndarray) -> np.ndarray:
        """The picture on the canvas; padding repeats its edge."""
        width, height = (c - s for c, s in zip(self.canvas, self.scaled, strict=True))
        return np.pad(resized(pixels, self.scaled), ((0, height), (0, width), (0, 0)), "edge")

    def take(self, pixels: np.ndarray, size: Size | None = None) -> np.ndarray:
        """The picture off a canvas of any even scale, at `size` or the picture's own.

        Raises InputError if the canvas came back in another shape: what became of its content,
        stretched or cropped, cannot be known.
        """
        got = (pixels.shape[1], pixels.shape[0])
        if not _same_shape(got, self.canvas):
            raise InputError(
                f"it gave {got[0]}x{got[1]} for {self.canvas[0]}x{self.canvas[1]}, which is "
                "another shape; state the sizes it keeps (multiple, most or sizes)"
            )
        canvas = resized(pixels, self.canvas)
        return resized(canvas[: self.scaled[1], : self.scaled[0]], size or self.size)

    def facts(self, got: Size) -> dict[str, Any]:
        """Sizes as plain data."""
        return {"size": list(self.size), "scaled": list(self.scaled), "sent": list(self.canvas),
                "received": list(got)}  # fmt: skip


def place(size: Size, sizing: Sizing) -> Placed:
    """Choose the canvas for a picture: the least padding among `sizes`, else the least change."""
    if sizing.sizes:
        scales = {c: min(c[0] / size[0], c[1] / size[1]) for c in sizing.sizes}
        canvas = max(scales, key=lambda c: (scales[c] ** 2 / (c[0] * c[1]), c[0] * c[1]))
        return Placed(size, _scaled(size, scales[canvas]), canvas)
    scale = 1.0
    if sizing.most is not None:
        scale = min(1.0, sqrt(sizing.most / (size[0] * size[1])))
    while True:
        scaled = _scaled(size, scale)
        canvas = tuple(ceil(side / sizing.multiple) * sizing.multiple for side in scaled)
        if sizing.most is None or canvas[0] * canvas[1] <= sizing.most or scaled == (1, 1):
            return Placed(size, scaled, canvas)
        scale *= 0.99


def working_size(size: Size, sizings: Iterable[Sizing]) -> Size:
    """The largest size in the picture's shape that every editor takes without scaling it down."""
    scaled = [place(size, sizing).scaled for sizing in sizings]
    return min([size, *scaled])


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [H, W, 3] with Pillow's Lanczos filter; as it is at equal size."""
    if (pixels.shape[1], pixels.shape[0]) == tuple(size):
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _same_shape(one: Size, other: Size) -> bool:
    """Whether an even scale, sides rounded, leads from one to the other."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= sum(other)
