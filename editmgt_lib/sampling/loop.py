"""The sampling loop: predict, hold, reveal, until no token is masked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Cancelled, InputError
from ..localization.maps import Localization
from .noise import ItemNoise, SharedNoise
from .options import SamplingOptions
from .step import reveal_step

Predict = Callable[[Tensor, int], tuple[Tensor, Localization | None]]


@dataclass(frozen=True, eq=False, repr=False)
class StepEvent:
    """What a callback gets after a step.

    step: 0..steps - 1; the last one is reported even if no token was left to draw.
    ids: int64 [B, H, W] with masks; proposal: the same with all masked tokens predicted.
    held: bool [B, H, W], tokens that follow the source, or None; pending: bool, still masked.
    item: index of the first of these B items in the batch of `items`.
    """

    step: int
    steps: int
    ids: Tensor
    proposal: Tensor
    held: Tensor | None
    pending: Tensor
    item: int = 0
    items: int = 1

    def __repr__(self) -> str:
        return f"StepEvent(step={self.step}, steps={self.steps}, ids={list(self.ids.shape)})"


Callback = Callable[[StepEvent], bool | None]


class SampleResult(NamedTuple):
    """Final ids, int64 [B, H, W], and the last relevance map, or None."""

    ids: Tensor
    localization: Localization | None


@torch.no_grad()
def sample_tokens(
    predict: Predict,
    start_ids: Tensor,
    *,
    options: SamplingOptions,
    noise: SharedNoise | ItemNoise,
    mask_id: int,
    source: Tensor | None = None,
    region: Tensor | None = None,
    never_held: Tensor | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Run all steps.

    Args:
        predict: (ids, step) -> guided logits [M, V] of the M masked tokens in reading order, and
            the map to hold by.
        start_ids: int64 [B, H, W], mask_id where tokens are to be drawn.
        source: int64 [B, H, W], tokens of the picture.
        region: bool [B, H, W], where tokens may change; the rest starts as the source (published
            inpainting, mask counts per item).
        never_held: bool [B, H, W], tokens that may change however irrelevant.
        callback: called after each step; returning False cancels.

    Raises:
        InputError: a missing source, or ids in it that are not picture tokens; Cancelled.
    """
    if source is None and (region is not None or options.threshold > 0):
        raise InputError("source is None; give one, or neither a region nor a threshold")
    ids = start_ids if region is None else torch.where(region, start_ids, source)
    free, localization, event = ids == mask_id, None, None
    for step in range(options.steps):
        if options.hold_rule == "proposal" and not (ids == mask_id).any():
            break  # nothing left to draw, and this rule restores nothing
        logits, current = predict(ids, step)
        localization = current or localization
        codes, size = logits.shape[1], ids[0].numel()
        if step == 0 and source is not None and not 0 <= source.min() <= source.max() < codes:
            raise InputError(f"source has ids outside 0..{codes - 1}; pass tokens without masks")
        held = _held(current, options.threshold, never_held, ids.shape[1:])
        changing = free & ~held if options.hold_rule == "restore" and held is not None else free
        ids, proposal = reveal_step(
            logits, ids, noise.draw(len(ids), size, codes, step == options.steps - 1),
            step=step, options=options, mask_id=mask_id, source=source, held=held,
            start_ratio=changing.sum((1, 2)).float() / size,
        )  # fmt: skip
        event = StepEvent(step, options.steps, ids, proposal, held, ids == mask_id)
        report(event, callback)
    if event is None or event.step < options.steps - 1:
        held = None if event is None else event.held
        report(
            StepEvent(options.steps - 1, options.steps, ids, ids, held, ids == mask_id), callback
        )
    return SampleResult(ids, localization)


def report(event: StepEvent, callback: Callback | None) -> None:
    """Call the callback. Raises Cancelled if it returns False."""
    if callback is not None and callback(event) is False:
        raise Cancelled(f"the callback stopped the run at step {event.step + 1} of {event.steps}")


def of_item(callback: Callback | None, item: int, items: int) -> Callback | None:
    """Wrap a callback so that events name the item of a batch sampled item by item."""
    if callback is None:
        return None
    return lambda event: callback(replace(event, item=item, items=items))


def _held(
    localization: Localization | None,
    threshold: float,
    never_held: Tensor | None,
    grid: tuple[int, int],
) -> Tensor | None:
    """Tokens held at a step, bool [B, H, W]; None without a map or a threshold."""
    if localization is None or threshold == 0:
        return None
    held = localization.held(threshold, *grid)
    return held if never_held is None else held & ~never_held
