"""SSIM on RGB in 0..1, in float64.

The variant, "torchmetrics-1.4.2" in names: Gaussian window of 11 taps, sigma 1.5, reflected edges
and the mean over the whole picture and its channels, which is torchmetrics' rule since 1.4.2.
Earlier versions crop the edge; scikit-image takes a 7-pixel box by default. The numbers differ.
torchmetrics itself is not called: in float32 it is off by 1e-4 wherever a picture is flat, and its
two-dimensional float64 convolution takes ten times as long.
"""

import numpy as np
import torch
from torch import Tensor

from .base import NotApplicable
from .pixels import RANGE, Pixels

VARIANT = "torchmetrics-1.4.2"
_MARGIN, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim_map(first: Pixels, second: Pixels) -> np.ndarray:
    """SSIM of every pixel, mean over channels: float64 [H, W].

    Raises NotApplicable for pictures with a side of at most 5 pixels.
    """
    if min(first.shape[:2]) <= _MARGIN:
        raise NotApplicable(f"a side has at most {_MARGIN} pixels")
    a, b = (torch.from_numpy(np.float64(p)).movedim(-1, 0) / RANGE for p in (first, second))
    mean_a, mean_b, aa, bb, ab = _blurred(torch.stack((a, b, a * a, b * b, a * b)))
    spread = (aa - mean_a**2).clamp(min=0) + (bb - mean_b**2).clamp(min=0)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * (2 * (ab - mean_a * mean_b) + _C2) / (spread + _C2)).mean(0).numpy()


def _blurred(pictures: Tensor) -> Tensor:
    """Gaussian means of [N, C, H, W], edges reflected; one axis after the other."""
    taps = torch.arange(-_MARGIN, _MARGIN + 1, dtype=torch.float64, device="cpu")
    weights = (-((taps / _SIGMA) ** 2) / 2).exp()
    weights /= weights.sum()
    pictures = torch.nn.functional.pad(pictures, (_MARGIN,) * 4, mode="reflect")
    for axis in (2, 3):
        length = pictures.shape[axis] - 2 * _MARGIN
        total = torch.zeros_like(pictures.narrow(axis, 0, length))
        for start, weight in enumerate(weights.tolist()):
            total.add_(pictures.narrow(axis, start, length), alpha=weight)
        pictures = total
    return pictures


def ssim(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
    """Mean of `ssim_map`, of the pixels in `where` if given; at most 1."""
    full = ssim_map(first, second)
    return float((full if where is None else full[where]).mean())
