"""Smoothing of relevance maps: pure torch on [B, h, w], each item by itself.

The published code smooths one picture at a time through scipy; borders and windows follow it. Its
two other filters, bilateral and morphology, are left out: no published setting uses them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOAT64 = ("cpu", "cuda", "meta")  # devices that have it
PEAK_TENTHS = 9  # peaks lie strictly above the 90th percentile
PEAK_SHARE = 0.7  # share of the raw value a peak keeps
VARIANCE_WEIGHT = 0.7  # how far the adaptive filter follows the raw map where it varies most


def smooth(
    scores: Tensor, kind: str = "adaptive", strength: float = 1.0, preserve_peaks: bool = True
) -> Tensor:
    """Smooth relevance maps and map each item back to its own range.

    scores: float [B, h, w], 0..1. kind: one of `choices.FILTERS`. strength: scales the window,
    0.5..2. preserve_peaks: pull values above the item's 90th percentile 70 % back to the raw map.
    Returns float32 [B, h, w] on the device of the scores.
    Published: "adaptive", strength 1, peaks preserved. Not inherited: it takes one square picture,
    fails at batch 2, and smooths lengths other than 1024 and 4096 along one axis only.
    """
    if kind == "none":
        return scores.float()
    # Float64 makes the result independent of summation order, but MPS, Arc and DirectML lack it:
    # there a map of a few KB is filtered on the CPU, for which the host waits.
    raw = (scores if scores.device.type in FLOAT64 else scores.cpu()).double()
    smoothed = _FILTER[kind](raw, strength)
    if preserve_peaks:
        # A value within rounding of the percentile may fall on either side of it; the map is
        # discontinuous there, as in the published code.
        peaks = raw > _percentile(raw)
        smoothed = torch.where(peaks, PEAK_SHARE * raw + (1 - PEAK_SHARE) * smoothed, smoothed)
    return _to_range(smoothed, *_range(raw)).float().to(scores.device)


def _range(field: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each item, [B, 1, 1]."""
    return field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)


def _to_range(field: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map each item to low..high linearly; a flat item stays as it is."""
    own_low, own_high = _range(field)
    span = own_high - own_low
    unit = (field - own_low) / torch.where(span > 0, span, 1.0)
    return torch.where(span > 0, unit * (high - low) + low, field)


def _percentile(field: Tensor) -> Tensor:
    """90th percentile of each item with linear interpolation, [B, 1, 1]."""
    ordered = field.flatten(1).sort(dim=-1).values
    # In whole numbers: 0.9 * (n - 1) in floating point may miss the rank it should hit.
    rank, tenths = divmod(PEAK_TENTHS * (ordered.shape[1] - 1), 10)
    below = ordered[:, rank]
    above = ordered[:, min(rank + 1, ordered.shape[1] - 1)]
    return (below + (above - below) * (tenths / 10))[:, None, None]


def _grow(field: Tensor, rows: int, cols: int) -> Tensor:
    """Mirror [B, h, w] beyond its borders (b a | a b c) to [B, h + 2 rows, w + 2 cols]."""
    if rows:
        field = field[:, _mirror(field.shape[1], rows, field.device)]
    return field[:, :, _mirror(field.shape[2], cols, field.device)] if cols else field


def _mirror(length: int, pad: int, device: torch.device) -> Tensor:
    """Source index of every position of an axis padded by any `pad` (scipy's "reflect")."""
    index = torch.arange(-pad, length + pad, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _blur(field: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian, cut at 4 sigma, mirrored borders (scipy.ndimage.gaussian_filter)."""
    radius = int(4.0 * sigma + 0.5)
    axis = torch.arange(-radius, radius + 1, dtype=field.dtype, device=field.device)
    weights = torch.exp(-0.5 / sigma**2 * axis**2)
    weights = weights / weights.sum()
    tall = F.conv2d(_grow(field, radius, 0)[:, None], weights[None, None, :, None])
    wide = _grow(tall[:, 0], 0, radius)
    return F.conv2d(wide[:, None], weights[None, None, None, :])[:, 0]


def _gaussian(field: Tensor, strength: float) -> Tensor:
    return _blur(field, 2.0 * strength)


def _adaptive(field: Tensor, strength: float) -> Tensor:
    """Blur flat areas; keep positions whose 5 x 5 neighbourhood varies."""
    of_squares, mean = _local_mean(torch.cat([field**2, field])).chunk(2)
    variance = of_squares - mean**2
    low, high = _range(variance)
    raw_share = VARIANCE_WEIGHT * (variance - low) / (high - low + 1e-8)
    return (1 - raw_share) * _blur(field, 1.5 * strength) + raw_share * field


def _local_mean(field: Tensor) -> Tensor:
    """Mean over the 5 x 5 neighbourhood of each position."""
    return F.avg_pool2d(_grow(field, 2, 2)[:, None], 5, stride=1)[:, 0]


_FILTER = {"adaptive": _adaptive, "gaussian": _gaussian}
