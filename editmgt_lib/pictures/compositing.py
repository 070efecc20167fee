"""Which tokens a mask touches, which pixels changed tokens reach, and the composite of the two.

Pixels outside the support are the source's own, bit for bit: holding tokens alone does not keep
them, because held tokens pass the decoder too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import checked_mask, require_number
from ..errors import InputError
from .canvas import Canvas


def project_mask(mask: Tensor, canvas: Canvas, dilate: int = 0, required: bool = False) -> Tensor:
    """Mask [B or 1, H, W] (bool, or float: above 0.5) -> tokens it touches, bool [B, rows, cols].

    A token is in as soon as one masked pixel overlaps its cell by any amount; dilate adds that
    many tokens all around. required: an item without any token is an error.
    Raises InputError, also on a size or batch other than the canvas'.
    """
    require_number("dilate", dilate, 0, 4096, whole=True)
    inside = checked_mask(mask, canvas.batch, canvas.height, canvas.width)
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
            "pixel that lies in the picture, or leave the region out"
        )
    return _grown(cells, dilate)


def support(changed: Tensor, canvas: Canvas, grow: int) -> Tensor:
    """Pixels that may differ: changed tokens bool [B, rows, cols] -> bool [B, H, W].

    grow: how many tokens around a changed one its decoded pixels reach. The mapping is the
    transpose of `project_mask`, so the support of a mask's tokens contains the mask.
    Outside the crop box: False. Raises InputError.
    """
    require_number("grow", grow, 0, 4096, whole=True)
    expected = (canvas.batch, canvas.rows, canvas.cols)
    if changed.dtype != torch.bool or changed.shape != expected:
        got = f"{changed.dtype} {tuple(changed.shape)}"
        raise InputError(f"changed is {got}; the canvas needs bool {expected}")
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
    require_number("feather", feather, 0)
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


def _grown(cells: Tensor, by: int) -> Tensor:
    """Boolean grid [B, rows, cols] grown by a square of that many cells each way."""
    by = min(by, max(cells.shape))
    grown = cells[:, None].float()
    for kernel in ((2 * by + 1, 1), (1, 2 * by + 1)) if by else ():
        pad = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
        grown = F.max_pool2d(F.pad(grown, pad), kernel, stride=1)
    return grown[:, 0] > 0


def _checked_decoded(decoded: Tensor, canvas: Canvas) -> Tensor:
    expected = (canvas.batch, 3, *canvas.size)
    if decoded.shape != expected or not decoded.is_floating_point():
        got = f"{decoded.dtype} {tuple(decoded.shape)}"
        raise InputError(f"decoded picture is {got}; the canvas needs float {expected}")
    if not all(map(math.isfinite, decoded.detach().aminmax())):
        raise InputError("decoded picture holds NaN or infinity; run the VQ model in float32")
    return decoded.to(torch.float32).clamp(0, 1)


def _checked_support(support: Tensor | None, canvas: Canvas) -> Tensor:
    expected = (canvas.batch, canvas.height, canvas.width)
    if support is None or support.dtype != torch.bool or support.shape != expected:
        got = "None" if support is None else f"{support.dtype} {tuple(support.shape)}"
        raise InputError(f"support is {got}; this canvas needs bool {expected}")
    return support
