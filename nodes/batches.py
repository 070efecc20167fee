"""One item at a time: what makes an item independent of the batch around it, to the last bit.

Rounding depends on the shapes of a whole batch, and a token drawn from rounded logits with it. An
item by itself is the same in any company, and no more memory is needed than for one.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..editmgt_lib.localization.maps import Localization
from ..editmgt_lib.pictures.fitting import Tokens
from ..editmgt_lib.text.instruction import Instruction


def each_tokens(tokens: Tokens) -> Iterator[Tokens]:
    """Tokens picture by picture."""
    for k, placement in enumerate(tokens.canvas.placements):
        pixels, source = tokens.canvas.source, tokens.source_ids
        canvas = replace(
            tokens.canvas,
            placements=(placement,),
            source=None if pixels is None else pixels[k : k + 1],
        )
        yield Tokens(tokens.ids[k : k + 1], canvas, None if source is None else source[k : k + 1])


def each_instruction(instruction: Instruction, batch: int) -> Iterator[Instruction]:
    """Prompts one by one, a single one for all; InputError for another number of them."""
    expanded = instruction.expand(batch)
    for k in range(batch):
        yield expanded.item(k)


def each_localization(found: Localization | None, batch: int) -> Iterator[Localization | None]:
    """Maps one by one, a single one (or none) for all."""
    for k in range(batch):
        if found is None or len(found.relevance) == 1:
            yield found
        else:
            yield replace(found, relevance=found.relevance[k : k + 1])


def each_mask(mask: Tensor | None, batch: int) -> Iterator[Tensor | None]:
    """Masks [1, H, W] one by one, a single one (or none) for all."""
    for k in range(batch):
        yield mask if mask is None or len(mask) == 1 else mask[k : k + 1]


def as_masks(mask: Tensor | None) -> Tensor | None:
    """A MASK as [B, H, W]: some nodes give a single one without the batch."""
    return mask[None] if mask is not None and mask.ndim == 2 else mask


def at_rest(tokens: Tokens) -> Tokens:
    """Tokens on the CPU, where ComfyUI keeps what waits for the next node."""
    source = tokens.source_ids
    return replace(
        tokens, ids=tokens.ids.cpu(), source_ids=None if source is None else source.cpu()
    )


def joined(items: list[Tensor]) -> Tensor:
    """A batch of what came one by one, on the CPU."""
    return torch.cat([item.cpu() for item in items])
