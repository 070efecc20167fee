"""Pixels <-> model canvas <-> token grid: how a picture is put on the canvas; door to the room.

See `canvas` for the planes and `compositing` for the way back. The published code only works at
1024x1024 and crops at random; nothing of this is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..checks import checked_image, checked_mask, require_choice, require_number, use_plain_values
from ..choices import FITS
from ..errors import InputError
from .canvas import Canvas, Placement, Tokens
from .compositing import composite, project_mask, support

__all__ = ["Canvas", "FitOptions", "Tokens", "composite", "fit", "project_mask", "support"]

_MAX_ZOOM = 4  # a crop is not enlarged further: beyond that the model sees only its own blur
_MAX_RATIO = 2  # longest side of a native grid, in units of the resolution the model knows


@dataclass(frozen=True)
class FitOptions:
    """How a picture is put on the model's canvas; scale is always uniform, the rest is padding.

    mode: "pad" fits the whole picture into the square canvas; "native" takes a grid of about
    resolution**2 pixels in the picture's own shape (sides multiples of 2 * factor, at most
    2 * resolution; a picture between half of that budget and all of it is not scaled at all);
    "crop" takes only the surroundings of a mask, so that a small region gets the full canvas.
    resolution: side of the square canvas in pixels, a multiple of 2 * factor.
    factor: pixels per token (published VQ: 16).
    context: margin around the region in crop mode, as a share (0..8) of its longer side.
    Raises InputError.
    """

    mode: str = "pad"
    resolution: int = 1024
    factor: int = 16
    context: float = 0.5

    def __post_init__(self) -> None:
        use_plain_values(self)
        require_choice("mode", self.mode, FITS)
        require_number("factor", self.factor, 1, 64, whole=True)
        require_number("resolution", self.resolution, 2 * self.factor, 8192, whole=True)
        if self.resolution % (2 * self.factor):
            raise InputError(
                f"resolution is {self.resolution}; use a multiple of {2 * self.factor} "
                f"(2 x factor {self.factor})"
            )
        require_number("context", self.context, 0, 8)


def fit(image: Tensor, options: FitOptions, mask: Tensor | None = None) -> tuple[Tensor, Canvas]:
    """Put pictures [B, H, W, C] (C 1, 3 or 4) on the canvas: ([B, 3, h, w] float32 0..1, Canvas).

    Floating-point pictures hold 0..1, uint8 ones 0..255. Colour under transparency is used as
    it is; grey is expanded. mask [B or 1, H, W] is read in crop mode only, where every picture
    gets the box of its own mask. At scale 1 the pixels are the input's, not resampled.
    Raises InputError.
    """
    source = checked_image(image)
    _, height, width, channels = source.shape
    boxes = [(0, 0, height, width)] * len(source)
    size, scale = (options.resolution, options.resolution), None
    if options.mode == "native":
        size, scale = _native_size(height, width, options)
    elif options.mode == "crop":
        boxes = _crop_boxes(mask, source, options)
    placements = tuple(_place(box, size, options.factor, scale) for box in boxes)
    colours = source[..., :3].expand(-1, -1, -1, 3)
    pixels = [where.place(item, size) for where, item in zip(placements, colours, strict=True)]
    canvas = Canvas(height, width, size, options.factor, placements, source)
    return torch.cat(pixels).clamp_(0, 1).contiguous(), canvas


def _place(
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    factor: int,
    scale: Fraction | None,
) -> Placement:
    """Centre the box on the canvas at a token boundary, as large as fits unless scale is given."""
    taken = (box[2] - box[0], box[3] - box[1])
    if scale is None:
        scale = min(Fraction(side, length) for side, length in zip(size, taken, strict=True))
    scaled = tuple(max(1, round(length * scale)) for length in taken)
    offset = tuple(
        (side - used) // 2 // factor * factor for side, used in zip(size, scaled, strict=True)
    )
    return Placement(box, scaled, offset)


def _native_size(
    height: int, width: int, options: FitOptions
) -> tuple[tuple[int, int], Fraction | None]:
    """Canvas (height, width) in the picture's shape, and the scale (None: as large as fits)."""
    unit, longest = 2 * options.factor, _MAX_RATIO * options.resolution
    budget, area = options.resolution**2, height * width
    if budget <= 2 * area <= 2 * budget and max(height, width) <= longest:
        return (-(-height // unit) * unit, -(-width // unit) * unit), Fraction(1)
    scale = min(math.sqrt(budget / area), longest / max(height, width))
    rows, cols = (max(1, round(side * scale / unit)) * unit for side in (height, width))
    return (rows, cols), None


def _crop_boxes(
    mask: Tensor | None, source: Tensor, options: FitOptions
) -> list[tuple[int, int, int, int]]:
    """One square box (cut to the picture) around each item's region and its context."""
    if mask is None:
        raise InputError("fit is 'crop' without a mask; give a mask, or use 'pad' or 'native'")
    boxes = []
    for item, inside in enumerate(checked_mask(mask, *source.shape[:3])):
        rows, cols = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        if not len(rows):
            raise InputError(
                f"fit is 'crop' and the mask of batch item {item} is empty (nothing above 0.5); "
                "paint a region, or use 'pad' or 'native'"
            )
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1], cols[0], cols[-1]))
        side = max(bottom - top, right - left) + 1
        side += 2 * round(options.context * side)
        side = max(side, -(-options.resolution // _MAX_ZOOM))
        top, bottom = _window(top, bottom + 1, side, source.shape[1])
        left, right = _window(left, right + 1, side, source.shape[2])
        boxes.append((top, left, bottom, right))
    return boxes


def _window(start: int, stop: int, length: int, limit: int) -> tuple[int, int]:
    """Interval of that length around [start, stop), pushed and then cut to [0, limit)."""
    length = min(length, limit)
    begin = min(max((start + stop - length) // 2, 0), limit - length)
    return begin, begin + length
