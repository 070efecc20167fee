"""Smoothing of relevance maps: pure torch on [B, h, w], each item by itself, on any device.

The four filters are those of the published code, which runs them on the CPU through scipy, OpenCV
and scikit-image, one picture at a time. Borders, windows and rounding follow those libraries.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FILTERS = ("adaptive", "gaussian", "bilateral", "morphology", "none")

PEAK_TENTHS = 9  # peaks lie strictly above the 90th percentile
PEAK_SHARE = 0.7  # share of the raw value a peak keeps
VARIANCE_WEIGHT = 0.7  # how far the adaptive filter follows the raw map where it varies most


def smooth(
    scores: Tensor, kind: str = "adaptive", strength: float = 1.0, preserve_peaks: bool = True
) -> Tensor:
    """Smooth relevance maps and map the result back to each item's own range.

    scores: float [B, h, w], 0..1. kind: one of FILTERS ("none" returns the scores). strength:
    0.5..2, scales the window. preserve_peaks: pull values above the item's 90th percentile 70 %
    back to the raw map. Returns float32 [B, h, w].
    Published code: "adaptive", strength 1, peaks preserved. Not inherited: it takes one square
    picture, so it stops at batch 2 and smooths lengths but 1024 and 4096 along one axis only.
    """
    if kind == "none":
        return scores.float()
    # Small maps: float64 costs nothing and keeps the result independent of summation order.
    raw = scores if scores.device.type == "mps" else scores.double()
    smoothed = _FILTER[kind](raw, strength)
    if preserve_peaks:
        peaks = raw > _percentile(raw)
        smoothed = torch.where(peaks, PEAK_SHARE * raw + (1 - PEAK_SHARE) * smoothed, smoothed)
    low, high = _range(smoothed)
    raw_low, raw_high = _range(raw)
    span = high - low
    unit = (smoothed - low) / torch.where(span > 0, span, 1.0)
    return torch.where(span > 0, unit * (raw_high - raw_low) + raw_low, smoothed).float()


def _range(field: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each item, [B, 1, 1]."""
    return field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)


def _percentile(field: Tensor) -> Tensor:
    """90th percentile of each item with linear interpolation, [B, 1, 1]."""
    ordered = field.flatten(1).sort(dim=-1).values
    # In whole numbers: 0.9 * (n - 1) in floating point may fall beside the rank it should hit.
    rank, tenths = divmod(PEAK_TENTHS * (ordered.shape[1] - 1), 10)
    below = ordered[:, rank]
    above = ordered[:, min(rank + 1, ordered.shape[1] - 1)]
    return (below + (above - below) * (tenths / 10))[:, None, None]


def _mirror(length: int, pad: int, repeat_edge: bool, device: torch.device) -> Tensor:
    """Source index of every position of an axis grown by any `pad` on both sides.

    repeat_edge: b a | a b c (scipy "reflect"); otherwise c b | a b c (OpenCV's default border).
    """
    place = torch.arange(-pad, length + pad, device=device)
    if repeat_edge:
        place = place % (2 * length)
        return torch.minimum(place, 2 * length - 1 - place)
    period = max(2 * length - 2, 1)
    place = place % period
    return torch.minimum(place, period - place)


def _grow(field: Tensor, rows: int, cols: int, repeat_edge: bool = True) -> Tensor:
    """Mirror [B, h, w] beyond its borders to [B, h + 2 rows, w + 2 cols]."""
    field = field[:, _mirror(field.shape[1], rows, repeat_edge, field.device)]
    return field[:, :, _mirror(field.shape[2], cols, repeat_edge, field.device)]


def _neighbours(field: Tensor, window: Tensor, repeat_edge: bool = True) -> Tensor:
    """Values under a square bool window of odd side around each position: [B, K, h, w]."""
    side = window.shape[0]
    grown = _grow(field, side // 2, side // 2, repeat_edge)
    views = grown.unfold(1, side, 1).unfold(2, side, 1)  # [B, h, w, side, side]
    return views[..., window.to(field.device)].movedim(-1, 1)


def _disk(radius: int) -> tuple[Tensor, Tensor]:
    """Bool window within `radius` of the middle, and the squared distances (float64) around it."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    return squared <= radius**2, squared


def _blur(field: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian, cut at 4 sigma, mirrored borders (scipy.ndimage.gaussian_filter)."""
    radius = int(4.0 * sigma + 0.5)
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 / sigma**2 * axis**2)
    weights = (weights / weights.sum()).to(field)
    tall = F.conv2d(_grow(field, radius, 0)[:, None], weights[None, None, :, None])
    wide = _grow(tall[:, 0], 0, radius)
    return F.conv2d(wide[:, None], weights[None, None, None, :])[:, 0]


def _gaussian(field: Tensor, strength: float) -> Tensor:
    return _blur(field, 2.0 * strength)


def _adaptive(field: Tensor, strength: float) -> Tensor:
    """Blur flat places, keep places whose 5 x 5 neighbourhood varies."""
    window = torch.ones(5, 5, dtype=torch.bool)
    variance = _neighbours(field, window).var(1, correction=0)
    low, high = _range(variance)
    raw_share = VARIANCE_WEIGHT * (variance - low) / (high - low + 1e-8)
    return (1 - raw_share) * _blur(field, 1.5 * strength) + raw_share * field


def _bilateral(field: Tensor, strength: float) -> Tensor:
    """Edge-keeping mean over a disk on 8-bit levels (cv2.bilateralFilter), levels / 255."""
    radius = max(int(strength * 9) // 2, 1)
    sigma = strength * 75
    levels = (field.float() * 255).clamp(0, 255).floor()
    window, squared = _disk(radius)
    near = torch.exp(squared[window] * (-0.5 / sigma**2)).float().to(field)  # [K]
    around = _neighbours(levels, window, repeat_edge=False).to(field)  # [B, K, h, w]
    step = torch.arange(256, dtype=torch.float64)
    alike = torch.exp(step**2 * (-0.5 / sigma**2)).float().to(field)
    weights = near[:, None, None] * alike[(around - levels[:, None]).abs().long()]
    return _to_level((weights * around).sum(1) / weights.sum(1), radius) / 255


def _to_level(mean: Tensor, radius: int) -> Tensor:
    """Whole 8-bit levels, rounded as the library build behind the published numbers does.

    That build rounds to even, but has a faster routine for a 5 x 5 window (strength about 0.5),
    which rounds down everywhere but in the two outer columns of all but the two outer rows.
    """
    if radius != 2:
        return mean.round()
    down = mean.floor()
    for outer in (slice(None, 2), slice(-2, None)):
        down[:, 2:-2, outer] = mean[:, 2:-2, outer].round()
    return down


def _morphology(field: Tensor, strength: float) -> Tensor:
    """Grey opening, then closing, with a disk (skimage.morphology)."""
    window, _ = _disk(max(3, int(strength * 5)))

    def darkest(x: Tensor) -> Tensor:
        return _neighbours(x, window).amin(1)

    def brightest(x: Tensor) -> Tensor:
        return _neighbours(x, window).amax(1)

    return darkest(brightest(brightest(darkest(field))))


_FILTER = {
    "adaptive": _adaptive,
    "gaussian": _gaussian,
    "bilateral": _bilateral,
    "morphology": _morphology,
}
