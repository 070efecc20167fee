"""SSIM by torchmetrics, on RGB in 0..1.

The variant, "torchmetrics-1.4.2" in names: Gaussian window of 11 taps, sigma 1.5, reflected edges
and the mean over the whole picture and its channels, which is torchmetrics' rule since 1.4.2.
Earlier versions crop the edge; scikit-image takes a 7-pixel box by default. The numbers differ.
"""

import numpy as np
import torch

from ...errors import InputError
from .base import NotApplicable
from .pixels import RANGE, Pixels

VARIANT = "torchmetrics-1.4.2"
_MARGIN = 5


def ssim_map(first: Pixels, second: Pixels) -> np.ndarray:
    """SSIM of every pixel, mean over channels: float64 [H, W].

    Raises NotApplicable for pictures with a side of at most 5 pixels, InputError without
    torchmetrics.
    """
    if min(first.shape[:2]) <= _MARGIN:
        raise NotApplicable(f"a side has at most {_MARGIN} pixels")
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise InputError("SSIM needs torchmetrics; pip install editmgt[eval]") from error
    pair = (torch.from_numpy(p / RANGE).movedim(-1, 0)[None] for p in (first, second))
    _, full = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
    return full[0].mean(0).numpy()


def ssim(first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
    """Mean of `ssim_map`, of the pixels in `where` if given; at most 1."""
    full = ssim_map(first, second)
    return float((full if where is None else full[where]).mean())
