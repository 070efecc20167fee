"""The sampling loop: predict, hold, reveal, until no token is masked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Cancelled, EditMGTError, InputError
from ..localization.maps import Localization
from .noise import ItemNoise, SharedNoise
from .options import SamplingOptions
from .step import mask_ratio, masked_first, n_masked, reveal_step

Predict = Callable[[Tensor, int, Tensor], tuple[Tensor, Localization | None]]


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
    codes: int,
    source: Tensor | None = None,
    region: Tensor | None = None,
    never_held: Tensor | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Run all steps, none of which waits for the device.

    Args:
        predict: (ids, step, positions [B, n]) -> guided logits [B, n, V] of these positions, and
            the map to hold by.
        start_ids: int64 [B, H, W], mask_id where tokens are to be drawn.
        codes: number of picture tokens, V.
        source: int64 [B, H, W], tokens of the picture.
        region: bool [B, H, W], where tokens may change; the rest starts as the source (published
            inpainting, mask counts per item).
        never_held: bool [B, H, W], tokens that may change however irrelevant.
        callback: called after each step; returning False cancels.

    Raises:
        InputError: a missing source, or ids in it that are not picture tokens; Cancelled;
        EditMGTError after the last step: logits or a map were not finite.
    """
    _check_source(source, codes, options.threshold > 0 or region is not None)
    ids = start_ids if region is None else torch.where(region, start_ids, source)
    free, localization, event, totals = ids == mask_id, None, None, []
    left, size = free.sum((1, 2)).cpu(), ids[0].numel()  # tokens masked, at most
    start, order = left.float() / size, masked_first(ids, mask_id)
    start_ratio = start.to(ids.device)
    numbers = noise.steps(options.steps, len(ids), size, codes, ids.device)
    for step in range(options.steps):
        if options.hold_rule == "proposal" and not left.any():
            break  # nothing left to draw, and this rule restores nothing
        rows = order[:, : int(left.max())]
        logits, current = predict(ids, step, rows)
        localization = current or localization
        held = _held(current, options.threshold, never_held, ids.shape[1:])
        if held is not None and options.hold_rule == "restore":
            start_ratio = (free & ~held).sum((1, 2)).float() / size
        left = n_masked(mask_ratio(step, options.steps, options.schedule), start, left, size)
        ids, proposal, order, total = reveal_step(
            logits, ids, rows, next(numbers), step=step, options=options, mask_id=mask_id,
            most=int(left.max()), start_ratio=start_ratio, source=source, held=held,
        )  # fmt: skip
        totals.append(total if current is None else total + current.relevance.sum())
        event = StepEvent(step, options.steps, ids, proposal, held, ids == mask_id)
        report(event, callback)
    _check_finite(totals)
    if event is None or event.step < options.steps - 1:
        held = None if event is None else event.held
        report(
            StepEvent(options.steps - 1, options.steps, ids, ids, held, ids == mask_id), callback
        )
    return SampleResult(ids, localization)


def _check_source(source: Tensor | None, codes: int, required: bool) -> None:
    if source is None and required:
        raise InputError("source is None; give one, or neither a region nor a threshold")
    if source is not None and not 0 <= source.min() <= source.max() < codes:
        raise InputError(f"source has ids outside 0..{codes - 1}; pass tokens without masks")


def _check_finite(totals: Sequence[Tensor]) -> None:
    """Check sums over every step's values: to look at each would make the host wait for it."""
    if totals and not (finite := torch.stack(totals).isfinite()).all():
        raise EditMGTError(
            f"logits or attention of step {finite.tolist().index(False)} are not finite; "
            "compute in float32 or bfloat16"
        )


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
