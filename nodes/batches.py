"""What enters a stage as a batch, and where its result rests."""

from dataclasses import fields, replace
from typing import TypeVar

from torch import Tensor

Record = TypeVar("Record")


def as_masks(mask: Tensor | None) -> Tensor | None:
    """Return a MASK as [B, H, W]; some nodes leave the batch out."""
    return mask[None] if mask is not None and mask.ndim == 2 else mask


def at_rest(record: Record) -> Record:
    """Move a dataclass's tensors to the CPU, where ComfyUI caches what the next node needs."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    tensors = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(record, **tensors)
