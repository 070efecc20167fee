"""Pixels <-> model canvas <-> token grid, and the composite that keeps the rest of a picture.

Three planes, all [row, column]: the source picture (any size), the canvas the model sees (sides
are multiples of 2 * factor, because the transformer halves the token grid once) and the token
grid (canvas / factor). A `Placement` maps one picture of a batch between them; its mapping is a
ratio of integers per axis, so that going there and back loses no pixel to rounding.

The published code only works at 1024x1024 and crops at random; nothing of this file is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

Mode = Literal["pad", "native", "crop"]
_MAX_ZOOM = 4  # a crop is not enlarged further: beyond that the model sees only its own blur
_MAX_RATIO = 2  # longest side of a native grid, in units of the resolution the model knows


def _require_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; use a whole number from {low} to {high}.")


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

    mode: Mode = "pad"
    resolution: int = 1024
    factor: int = 16
    context: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is {self.mode!r}; use one of {', '.join(get_args(Mode))}.")
        _require_int("factor", self.factor, 1, 64)
        _require_int("resolution", self.resolution, 2 * self.factor, 8192)
        if self.resolution % (2 * self.factor):
            raise InputError(
                f"resolution is {self.resolution}; use a multiple of {2 * self.factor} "
                f"(2 x factor {self.factor})."
            )
        if not 0 <= self.context <= 8:  # NaN fails too
            raise InputError(f"context is {self.context!r}; use a number from 0 to 8.")


@dataclass(frozen=True)
class Placement:
    """Where one picture lies on the canvas.

    box: part of the source that was taken (top, left, bottom, right), source pixels.
    scaled: (height, width) of that part on the canvas; offset: its (top, left) corner there.
    """

    box: tuple[int, int, int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @property
    def taken(self) -> tuple[int, int]:
        """(height, width) of the box in source pixels."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def spans(self, axis: int, cells: int, factor: int) -> list[tuple[int, int]]:
        """Source pixels [start, stop) that touch each token row (axis 0) or column (axis 1).

        Any overlap counts, so neighbours may share a pixel and no pixel of the box is left out;
        a cell that lies wholly in the padding gets an empty span.
        """
        start, side = self.box[axis], self.taken[axis]
        scaled, offset = self.scaled[axis], self.offset[axis]
        spans = []
        for cell in range(cells):
            low = max((cell * factor - offset) * side // scaled, 0)
            high = min(-((offset - (cell + 1) * factor) * side // scaled), side)
            spans.append((start + low, start + high) if low < high else (start, start))
        return spans

    def place(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """Source colours [H, W, 3] -> canvas [1, 3, *size]; only copied where the scale is 1."""
        top, left, bottom, right = self.box
        taken = picture[top:bottom, left:right].permute(2, 0, 1)[None]
        above, before = self.offset
        below = size[0] - self.scaled[0] - above
        after = size[1] - self.scaled[1] - before
        padding = (before, after, above, below)
        return F.pad(_resample(taken, self.scaled), padding, mode="replicate")

    def restore(self, plane: Tensor) -> Tensor:
        """Canvas values [h, w] -> the same at source resolution, [box height, box width]."""
        (top, left), (height, width) = self.offset, self.scaled
        plane = plane[top : top + height, left : left + width]
        return _resample(plane[None, None], self.taken)[0, 0]


@dataclass(frozen=True, eq=False)
class Canvas:
    """What `fit` did to a batch, and what `composite` needs to undo it.

    height, width: source size; size: (height, width) of the canvas; factor: pixels per token;
    placements: one per picture; source: pixels [B, H, W, C] float32 as given (never written to,
    not copied either: do not change the tensor you passed in), None for a generated picture.
    """

    height: int
    width: int
    size: tuple[int, int]
    factor: int
    placements: tuple[Placement, ...]
    source: Tensor | None = field(default=None, repr=False)

    @classmethod
    def blank(cls, batch: int, height: int, width: int, factor: int = 16) -> Canvas:
        """Canvas of a picture still to be generated; sides are multiples of 2 * factor."""
        _require_int("batch", batch, 1, 4096)
        _require_int("factor", factor, 1, 64)
        for name, side in (("height", height), ("width", width)):
            _require_int(name, side, 2 * factor, 8192)
            if side % (2 * factor):
                raise InputError(f"{name} is {side}; use a multiple of {2 * factor}.")
        whole = Placement((0, 0, height, width), (height, width), (0, 0))
        return cls(height, width, (height, width), factor, (whole,) * batch)

    @property
    def batch(self) -> int:
        return len(self.placements)

    @property
    def rows(self) -> int:
        return self.size[0] // self.factor

    @property
    def cols(self) -> int:
        return self.size[1] // self.factor

    def __repr__(self) -> str:
        kind = "picture" if self.source is not None else "blank"
        return (
            f"Canvas({self.batch} x {kind} {self.height}x{self.width} -> "
            f"{self.size[0]}x{self.size[1]}, {self.rows}x{self.cols} tokens)"
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of a batch and the canvas they came from.

    ids: int64 [B, rows, cols]; source_ids: the ids of the untouched source picture (None: no
    source), kept along a chain of edits, so that one final decode knows all that changed.
    Raises InputError where a shape or a dtype does not match the canvas.
    """

    ids: Tensor
    canvas: Canvas
    source_ids: Tensor | None = None

    def __post_init__(self) -> None:
        expected = (self.canvas.batch, self.canvas.rows, self.canvas.cols)
        for name, ids in (("ids", self.ids), ("source_ids", self.source_ids)):
            if ids is None and name == "source_ids":
                continue
            if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != expected:
                got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)
                raise InputError(f"token {name} are {got}; the canvas needs int64 {expected}.")

    @property
    def changed(self) -> Tensor:
        """bool [B, rows, cols]: the tokens that differ from the source picture (all without)."""
        if self.source_ids is None:
            return torch.ones_like(self.ids, dtype=torch.bool)
        return self.ids != self.source_ids.to(self.ids.device)

    def with_ids(self, ids: Tensor) -> Tokens:
        """The same canvas and source with other ids: the result of one more edit."""
        return replace(self, ids=ids)

    def __repr__(self) -> str:
        known = "with" if self.source_ids is not None else "without"
        return f"Tokens({self.canvas.batch}x{self.canvas.rows}x{self.canvas.cols}, {known} source)"


def fit(image: Tensor, options: FitOptions, mask: Tensor | None = None) -> tuple[Tensor, Canvas]:
    """Put pictures [B, H, W, C] (C 1, 3 or 4) on the canvas: ([B, 3, h, w] float32 0..1, Canvas).

    Floating-point pictures hold 0..1, uint8 ones 0..255. Colour under transparency is used as
    it is; grey is expanded. mask [B or 1, H, W] is read in crop mode only, where every picture
    gets the box of its own mask. At scale 1 the pixels are the input's, not resampled.
    Raises InputError.
    """
    source = _checked_image(image)
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


def project_mask(mask: Tensor, canvas: Canvas, dilate: int = 0, required: bool = False) -> Tensor:
    """Mask [B or 1, H, W] (bool, or float: above 0.5) -> tokens it touches, bool [B, rows, cols].

    A token is in as soon as one masked pixel overlaps its cell by any amount; dilate adds that
    many tokens all around. required: an item without any token is an error.
    Raises InputError, also on a size or batch other than the canvas'.
    """
    _require_int("dilate", dilate, 0, 4096)
    inside = _checked_mask(mask, canvas.batch, canvas.height, canvas.width)
    grids = []
    for picked, where in zip(inside, canvas.placements, strict=True):
        rows = where.spans(0, canvas.rows, canvas.factor)
        cols = where.spans(1, canvas.cols, canvas.factor)
        bands = torch.stack([picked[low:high].any(0) for low, high in rows])
        grids.append(torch.stack([bands[:, low:high].any(1) for low, high in cols], 1))
    cells = torch.stack(grids)
    empty = (~cells.flatten(1).any(1)).nonzero().flatten().tolist()
    if required and empty:
        raise InputError(
            f"the region of batch item {empty} holds no pixel above 0.5; paint at least one "
            "pixel that lies in the picture, or leave the region out."
        )
    return _grown(cells, dilate)


def support(changed: Tensor, canvas: Canvas, grow: int) -> Tensor:
    """Pixels that may differ: changed tokens bool [B, rows, cols] -> bool [B, H, W].

    grow: how many tokens around a changed one its decoded pixels reach. The mapping is the
    transpose of `project_mask`, so the support of a mask's tokens contains the mask.
    Outside the crop box: False. Raises InputError.
    """
    _require_int("grow", grow, 0, 4096)
    expected = (canvas.batch, canvas.rows, canvas.cols)
    if changed.dtype != torch.bool or changed.shape != expected:
        got = f"{changed.dtype} {tuple(changed.shape)}"
        raise InputError(f"changed is {got}; the canvas needs bool {expected}.")
    cells = _grown(changed, grow)
    shape = (canvas.batch, canvas.height, canvas.width)
    pixels = torch.zeros(shape, dtype=torch.bool, device=changed.device)
    for item, where in enumerate(canvas.placements):
        bands = pixels.new_zeros(canvas.rows, canvas.width)
        for col, (low, high) in enumerate(where.spans(1, canvas.cols, canvas.factor)):
            bands[:, low:high] |= cells[item, :, col, None]
        for row, (low, high) in enumerate(where.spans(0, canvas.rows, canvas.factor)):
            pixels[item, low:high] |= bands[row]
    return pixels


def composite(
    decoded: Tensor, canvas: Canvas, support: Tensor | None = None, feather: float = 0.0
) -> Tensor:
    """Decoded canvas [B, 3, h, w] -> picture [B, H, W, C] float32 at the source's resolution.

    Inside support (bool [B, H, W], cut to the crop box) the decoded colours, mapped back; outside
    it the source's own float32 values, bit for bit, and its alpha everywhere. A grey source comes
    back with three channels. feather (source pixels): the decoded share falls to 0 towards the
    support's border, inside it only; where the support meets the picture's frame there is no
    seam and no fall. A support narrower than twice the feather never reaches the full share.
    A blank canvas returns the decoded picture and needs no support. Raises InputError.
    """
    decoded = _checked_decoded(decoded, canvas)
    if not 0 <= feather < math.inf:
        raise InputError(f"feather is {feather!r}; use a number of pixels from 0 up.")
    source = canvas.source
    if source is None:
        return decoded.permute(0, 2, 3, 1).contiguous()
    inside = _checked_support(support, canvas).to(source.device)
    decoded = decoded.to(source.device)
    result = source.repeat(1, 1, 1, 3) if source.shape[-1] == 1 else source.clone()
    for item, where in enumerate(canvas.placements):
        top, left, bottom, right = where.box
        window = inside[item, top:bottom, left:right]
        if not window.any():
            continue
        share = _share(inside[item], where.box, feather) if feather else None
        # One channel at a time: a whole 8192 x 8192 copy of all three would be 800 MB more.
        for channel in range(3):
            target = result[item, top:bottom, left:right, channel]
            plane = where.restore(decoded[item, channel])
            if share is not None:
                plane = torch.lerp(target, plane, share)
            target.copy_(torch.where(window, plane, target))
    return result


def _share(inside: Tensor, box: tuple[int, int, int, int], feather: float) -> Tensor:
    """Share of the decoded picture in 0..1, [box height, box width]: distance / (feather + 1)."""
    top, left, bottom, right = box
    cut = torch.zeros_like(inside)
    cut[top:bottom, left:right] = inside[top:bottom, left:right]
    high, low = max(top - 1, 0), max(left - 1, 0)  # one pixel around the box ends the support
    distance = _border_distance(cut[high : bottom + 1, low : right + 1])
    distance = distance[top - high :, left - low :][: bottom - top, : right - left]
    return distance.to(torch.float32).div_(feather + 1).clamp_(max=1)


def _border_distance(inside: Tensor) -> Tensor:
    """City-block distance of each pixel to the nearest one outside, int32 [h, w] (0 outside).

    d[y] = min over y' of (d[y'] + |y - y'|), as one running minimum each way and axis: the cost
    does not depend on the distance. numpy, because torch.cummin also builds int64 indices.
    """
    import numpy as np

    distance = np.where(inside.cpu().numpy(), np.int32(2**30), np.int32(0))
    for swept in (distance, distance[::-1], distance.T, distance.T[::-1]):
        steps = np.arange(len(swept), dtype=np.int32)[:, None]
        swept -= steps
        np.minimum.accumulate(swept, axis=0, out=swept)
        swept += steps
    return torch.from_numpy(distance).to(inside.device)


def _resample(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, h, w] -> [N, C, *size]; the same values where the size already is."""
    if tuple(planes.shape[-2:]) == tuple(size):
        return planes
    resized = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return resized.clamp_(0, 1)  # bicubic overshoots


def _grown(cells: Tensor, by: int) -> Tensor:
    """Boolean grid [B, rows, cols] grown by a square of that many cells each way."""
    by = min(by, max(cells.shape))
    grown = cells[:, None].float()
    for kernel in ((2 * by + 1, 1), (1, 2 * by + 1)) if by else ():
        pad = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
        grown = F.max_pool2d(F.pad(grown, pad), kernel, stride=1)
    return grown[:, 0] > 0


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
        raise InputError("mode is 'crop' without a mask; give a mask, or use 'pad' or 'native'.")
    boxes = []
    for item, inside in enumerate(_checked_mask(mask, *source.shape[:3])):
        rows, cols = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        if not len(rows):
            raise InputError(
                f"mode is 'crop' and the mask of batch item {item} is empty (nothing above 0.5); "
                "paint a region, or use 'pad' or 'native'."
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


def _checked_image(image: Tensor) -> Tensor:
    if not isinstance(image, Tensor):
        raise InputError(f"image is a {type(image).__name__}; give a tensor [B, H, W, C].")
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise InputError(
            f"image has shape {tuple(image.shape)}; use [B, H, W, C] without a zero, C 1, 3 or 4."
        )
    if image.dtype == torch.uint8:
        return image.to(torch.float32) / 255
    if not image.is_floating_point():
        raise InputError(f"image is {image.dtype}; use a float type (0..1) or uint8 (0..255).")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= -1 and high <= 2):  # NaN and infinities fail too
        raise InputError(
            f"image holds values from {low:g} to {high:g}; use finite values in 0..1 "
            "(divide 0..255 by 255; NaN mostly comes from a float16 VAE)."
        )
    return image.to(torch.float32)


def _checked_mask(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """bool [batch, height, width] of the mask's pixels above 0.5 (one mask serves all items)."""
    if not isinstance(mask, Tensor) or mask.ndim != 3:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"mask is {got}; give a tensor [B or 1, H, W].")
    if mask.shape[1:] != (height, width):
        raise InputError(
            f"mask is {mask.shape[1]}x{mask.shape[2]} (height x width), the picture "
            f"{height}x{width}; resize the mask to the picture."
        )
    if mask.shape[0] not in (1, batch):
        raise InputError(
            f"there are {mask.shape[0]} masks for {batch} pictures; give one, or one for each."
        )
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            raise InputError(f"mask is {mask.dtype}; use bool, or float in 0..1.")
        if bool(mask.aminmax().max.isnan()):
            raise InputError("mask holds NaN; use bool, or float in 0..1.")
        mask = mask > 0.5
    return mask.expand(batch, -1, -1)


def _checked_decoded(decoded: Tensor, canvas: Canvas) -> Tensor:
    expected = (canvas.batch, 3, *canvas.size)
    if decoded.shape != expected or not decoded.is_floating_point():
        got = f"{decoded.dtype} {tuple(decoded.shape)}"
        raise InputError(f"decoded picture is {got}; the canvas needs float {expected}.")
    if not all(map(math.isfinite, decoded.detach().aminmax())):
        raise InputError("decoded picture holds NaN or infinity; run the VQ model in float32.")
    return decoded.to(torch.float32).clamp(0, 1)


def _checked_support(support: Tensor | None, canvas: Canvas) -> Tensor:
    expected = (canvas.batch, canvas.height, canvas.width)
    if support is None or support.dtype != torch.bool or support.shape != expected:
        got = "None" if support is None else f"{support.dtype} {tuple(support.shape)}"
        raise InputError(f"support is {got}; this canvas needs bool {expected}.")
    return support
