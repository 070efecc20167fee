"""Batches on their way into and out of a stage."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..editmgt_lib.pictures.fitting import Tokens


def each_mask(mask: Tensor | None, batch: int) -> Iterator[Tensor | None]:
    """Yield a mask [1, H, W] or None per item; a single one serves all."""
    for k in range(batch):
        yield mask if mask is None or len(mask) == 1 else mask[k : k + 1]


def as_masks(mask: Tensor | None) -> Tensor | None:
    """Return a MASK as [B, H, W]; some nodes leave the batch out."""
    return mask[None] if mask is not None and mask.ndim == 2 else mask


def at_rest(tokens: Tokens) -> Tokens:
    """Move tokens to the CPU, where ComfyUI caches what the next node needs."""
    source = tokens.source_ids
    return replace(
        tokens, ids=tokens.ids.cpu(), source_ids=None if source is None else source.cpu()
    )


def joined(items: list[Tensor]) -> Tensor:
    """Concatenate items into one batch on the CPU."""
    return torch.cat([item.cpu() for item in items])
