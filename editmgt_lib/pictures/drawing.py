"""Relevance maps at picture size and as heat maps."""

import torch
from torch import Tensor

from .canvas import Canvas

# From irrelevant to relevant.
HEAT = (
    (0.05, 0.08, 0.45),
    (0.10, 0.55, 0.90),
    (0.45, 0.85, 0.45),
    (1.00, 0.85, 0.20),
    (0.85, 0.08, 0.08),
)
_SHARE = 0.55  # of the heat over the picture


def enlarged(cells: Tensor, times: int) -> Tensor:
    """Repeat rows and columns of [H, W, ...]."""
    return cells.repeat_interleave(times, 0).repeat_interleave(times, 1)


def relevance_on_picture(relevance: Tensor, canvas: Canvas) -> Tensor:
    """Bring relevance per token [B, rows, cols] to picture size: float32 [B, H, W] in 0..1.

    All pixels of a token get its value, so a threshold selects the same area. 0 outside a crop.
    """
    tokens = relevance.float().clamp(0, 1).cpu()
    whole = torch.zeros(
        canvas.batch, canvas.height, canvas.width, dtype=torch.float32, device="cpu"
    )
    for item, where in enumerate(canvas.placements):
        top, left, bottom, right = where.box
        whole[item, top:bottom, left:right] = where.restore(enlarged(tokens[item], canvas.factor))
    return whole


def heat_map(pictures: Tensor, relevance: Tensor) -> Tensor:
    """Colour relevance [B, H, W] over greyed pictures [B, H, W, C]: [B, H, W, 3]."""
    stops = relevance.new_tensor(HEAT)
    position = relevance.clamp(0, 1) * (len(HEAT) - 1)
    below = position.floor().long().clamp(max=len(HEAT) - 2)
    colours = torch.lerp(stops[below], stops[below + 1], (position - below)[..., None])
    grey = pictures[..., :3].mean(-1, keepdim=True).to(colours)
    return torch.lerp(grey.expand_as(colours), colours, _SHARE)
