"""What enters a stage as a batch, and where its result rests."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..editmgt_lib.errors import InputError
from ..editmgt_lib.results import which_pictures

Record = TypeVar("Record")


def region_masks(
    mask: Tensor | None, height: int, width: int, every: bool = False
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return a MASK as [B, height, width], and notes on what was done to it.

    Load Image gives a blank mask of 64 x 64 for a picture nobody painted on, so a blank mask is no
    region: None if all are, and the whole picture for single ones of a batch. Other sizes are
    stretched as ComfyUI's own nodes do; some nodes leave the batch out.

    Raises:
        InputError: with `every`, where only some are blank.
    """
    if mask is None:
        return None, ()
    masks = mask.reshape(-1, *mask.shape[-2:])
    blank = (masks <= 0.5).flatten(1).all(1)  # as given: what vanishes on the way is no blank
    if blank.all():
        return None, (_blank_note([], len(masks)),)
    notes = (_blank_note(blank.nonzero().flatten().tolist(), len(masks)),) if blank.any() else ()
    if notes and every:
        raise InputError(f"{notes[0]}; with combine 'union', do so for every picture or for none")
    if masks.shape[1:] != (height, width):
        was = f"{masks.shape[2]}x{masks.shape[1]}"
        notes += (f"the mask was resized from {was} to the picture's {width}x{height}",)
        masks = F.interpolate(masks[:, None].float(), size=(height, width), mode="bilinear")[:, 0]
    return torch.where(blank[:, None, None], torch.ones_like(masks), masks), notes


def _blank_note(pictures: list[int], batch: int) -> str:
    which = which_pictures(pictures, batch) if pictures else ""
    return f"the mask is blank{which}: it sets no region, paint white where to edit"


def single_masks(given: Sequence[Tensor | None]) -> list[Tensor]:
    """Every mask of several inputs by itself, [1, H, W]; sizes may differ."""
    batches = [mask.reshape(-1, *mask.shape[-2:]) for mask in given if mask is not None]
    return [mask[None] for batch in batches for mask in batch]


def at_rest(record: Record) -> Record:
    """Move a dataclass's tensors to the CPU, where ComfyUI caches what the next node needs."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    tensors = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(record, **tensors)
