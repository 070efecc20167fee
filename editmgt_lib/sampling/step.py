"""One sampling step: mask schedule, token draw, region hold, ranking.

Pure functions (logits, ids, noise) -> ids; nothing here knows images, text or devices.
Where the paper and the published scheduler differ, an option names both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import EditMGTError
from .noise import StepNoise, draw_tokens
from .options import SamplingOptions


def mask_ratio(step: int, steps: int, schedule: str = "cosine") -> float:
    """Share of tokens masked after step index `step` of `steps`, 0..1.

    Float32, as published: after index 23 of 36, 2047 of 4096 tokens are masked, in float64 2048.
    """
    done = torch.tensor([step + 1], dtype=torch.float32, device="cpu") / steps
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
        known = torch.ones(flat.shape, dtype=torch.float32, device=flat.device)
        chances = known.masked_scatter(pending, chance)
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
