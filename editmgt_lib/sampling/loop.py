"""Drawing image tokens: mask schedule, token draw, region hold, ranking.

Pure functions (logits, ids, noise) -> ids; nothing here knows images, text or devices.
Where the paper and the published scheduler differ, an option names both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Cancelled, EditMGTError, InputError
from ..localization.maps import Localization
from .noise import ItemNoise, SharedNoise, StepNoise, draw_tokens
from .options import SamplingOptions

__all__ = [
    "ItemNoise", "SampleResult", "SamplingOptions", "SharedNoise", "StepEvent", "StepNoise",
    "StepResult", "draw_tokens", "guide", "mask_ratio", "n_masked", "reveal_step", "sample_tokens",
]  # fmt: skip


def mask_ratio(step: int, steps: int, schedule: str = "cosine") -> float:
    """Share of tokens masked after step index `step` of `steps`, 0..1.

    Float32, as published: after index 23 of 36, 2047 of 4096 tokens are masked, in float64 2048.
    """
    done = torch.tensor([step + 1]) / steps
    return float(torch.cos(done * torch.pi / 2) if schedule == "cosine" else 1 - done)


def n_masked(ratio: float, start_ratio: Tensor | float, masked: Tensor, positions: int) -> Tensor:
    """How many tokens to mask again: floor(positions * start_ratio * ratio) in 1..masked - 1.

    start_ratio: share masked at the start, [B] or a number; masked: int64 [B], now masked.
    Returns int64 [B]. A single masked token waits for the last step (published code).
    """
    start = torch.as_tensor(start_ratio, dtype=torch.float32, device=masked.device)
    wanted = (positions * (start * ratio)).floor().long()
    return torch.minimum(wanted, masked - 1).clamp(min=1)


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits, or on anything they are linear in."""
    return negative + scale * (positive - negative)


class StepResult(NamedTuple):
    """ids: int64 [B, H, W] after the step; proposal: the same before masking again."""

    ids: Tensor
    proposal: Tensor


def reveal_step(
    logits: Tensor,
    ids: Tensor,
    noise: StepNoise,
    *,
    step: int,
    options: SamplingOptions,
    mask_id: int,
    start_ratio: Tensor | float = 1.0,
    source: Tensor | None = None,
    held: Tensor | None = None,
) -> StepResult:
    """One step: draw the masked tokens, hold, rank by confidence, mask the least sure again.

    logits: guided, [M, V] of the M masked tokens in reading order. ids, source: int64 [B, H, W];
    held: bool [B, H, W], with source. start_ratio: share masked at the start, [B] or a number.
    Known tokens stay known; the last step masks none. EditMGTError when logits are not finite.
    """
    flat = ids.flatten(1)
    pending = flat == mask_id
    probs = logits.float().softmax(-1)
    drawn = draw_tokens(probs, noise.tokens[pending.to(noise.tokens.device)].to(probs.device))
    proposal, ranked = flat.masked_scatter(pending, drawn), pending
    if held is not None and source is not None:
        kept, restore = held.flatten(1), options.hold_rule == "restore"
        proposal = torch.where(kept if restore else kept & pending, source.flatten(1), proposal)
        ranked = pending & ~kept if restore else pending
    chance = probs.gather(-1, proposal[pending][:, None])[:, 0]
    if not torch.isfinite(chance).all():
        raise EditMGTError(f"logits of step {step} are not finite; compute in float32 or bfloat16")
    following = proposal
    if step < options.steps - 1:
        chances = torch.ones(flat.shape, device=flat.device).masked_scatter(pending, chance)
        sure = _confidence(chances, noise.ranking.to(flat.device), options.temperature_at(step))
        ratio = mask_ratio(step, options.steps, options.schedule)
        count = n_masked(ratio, start_ratio, ranked.sum(-1), flat.shape[1])
        following = proposal.masked_fill(_least_sure(sure, ranked, count), mask_id)
    return StepResult(following.view_as(ids), proposal.view_as(ids))


def _confidence(chance: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """log p + temperature * Gumbel noise, every logarithm kept finite as in the published code."""
    gumbel = -torch.log((-torch.log(uniform.clamp(1e-20))).clamp(1e-20))
    return torch.log(chance.clamp(1e-20)) + temperature * gumbel


def _least_sure(sure: Tensor, ranked: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] positions of lowest confidence among the ranked ones, bool [B, HW]."""
    sure = sure.where(ranked, torch.inf)
    cut = sure.sort(-1).values.gather(1, count.clamp(max=sure.shape[1] - 1)[:, None])
    return sure < cut


@dataclass(frozen=True, eq=False, repr=False)
class StepEvent:
    """What a callback sees after a step.

    step: 0..steps - 1. ids: int64 [B, H, W] with masks; proposal: the whole picture as now guessed.
    held: bool [B, H, W], tokens following the source, or None; pending: bool, still masked.
    """

    step: int
    steps: int
    ids: Tensor
    proposal: Tensor
    held: Tensor | None
    pending: Tensor

    def __repr__(self) -> str:
        return f"StepEvent(step={self.step}, steps={self.steps}, ids={list(self.ids.shape)})"


class SampleResult(NamedTuple):
    """ids: int64 [B, H, W], none masked; localization: of the last step that had one, or None."""

    ids: Tensor
    localization: Localization | None


@torch.no_grad()
def sample_tokens(
    predict: Callable[[Tensor, int, int], tuple[Tensor, Localization | None]],
    start_ids: Tensor,
    *,
    options: SamplingOptions,
    noise: SharedNoise | ItemNoise,
    mask_id: int,
    source: Tensor | None = None,
    region: Tensor | None = None,
    held: Tensor | None = None,
    never_held: Tensor | None = None,
    callback: Callable[[StepEvent], bool | None] | None = None,
) -> SampleResult:
    """The whole loop over predict(ids, step, timestep steps-1..0) -> (logits, Localization).

    logits: guided, [M, V] of the M masked tokens in reading order: known ones cost nothing.
    start_ids: int64 [B, H, W], mask_id where tokens are to be drawn. source: int64 [B, H, W], the
    tokens of the picture. region: bool [B, H, W], True may change; the rest starts as the source
    (published inpainting, mask counts per item). held: bool [B, H, W], held at every step on top of
    what lies below options.threshold; never_held: bool [B, H, W], free whatever its relevance.
    callback: where it returns False, Cancelled is raised and nothing is kept.
    InputError: a missing source, or one with ids that are no picture tokens.
    """
    if source is None and (region is not None or held is not None or options.threshold > 0):
        raise InputError("source is None; region, held and threshold > 0 need tokens to keep")
    ids = start_ids if region is None else torch.where(region, start_ids, source)
    free, localization = ids == mask_id, None
    for step in range(options.steps):
        if options.hold_rule == "proposal" and not (ids == mask_id).any():
            break  # nothing left to draw, and this rule puts nothing back
        logits, found = predict(ids, step, options.steps - 1 - step)
        localization = found or localization
        codes, size = logits.shape[1], ids[0].numel()
        if step == 0 and source is not None and not 0 <= source.min() <= source.max() < codes:
            raise InputError(f"source has ids outside 0..{codes - 1}; pass tokens without masks")
        kept = _held(found, options.threshold, held, never_held, ids.shape[1:])
        changing = free & ~kept if options.hold_rule == "restore" and kept is not None else free
        ids, proposal = reveal_step(
            logits, ids, noise.draw(len(ids), size, codes, step == options.steps - 1),
            step=step, options=options, mask_id=mask_id, source=source, held=kept,
            start_ratio=changing.sum((1, 2)) / size,
        )  # fmt: skip
        event = StepEvent(step, options.steps, ids, proposal, kept, ids == mask_id)
        if callback is not None and callback(event) is False:
            raise Cancelled(f"the callback stopped the run at step {step + 1} of {options.steps}")
    return SampleResult(ids, localization)


def _held(
    found: Localization | None,
    threshold: float,
    held: Tensor | None,
    never_held: Tensor | None,
    grid: tuple[int, int],
) -> Tensor | None:
    """The tokens held at a step, bool [B, H, W]; None where nothing asks for any."""
    if found is not None and threshold > 0:
        low = found.held(threshold, *grid)
        held = low if held is None else low | held
    return held if held is None or never_held is None else held & ~never_held
