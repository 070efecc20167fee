"""One sampling step: mask schedule, token draw, region hold, ranking.

Pure functions (logits, ids, noise) -> ids that know nothing of images, text or devices. Where the
paper and the published scheduler differ, there is an option.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import EditMGTError
from .noise import StepNoise, draw_tokens
from .options import SamplingOptions


def mask_ratio(step: int, steps: int, schedule: str = "cosine") -> float:
    """Fraction of tokens masked after step index `step` of `steps`, 0..1.

    Float32, as published: after index 23 of 36, 2047 of 4096 tokens are masked, in float64 2048.
    """
    done = torch.tensor([step + 1], dtype=torch.float32, device="cpu") / steps
    return float(torch.cos(done * torch.pi / 2) if schedule == "cosine" else 1 - done)


def n_masked(ratio: float, start_ratio: Tensor | float, masked: Tensor, positions: int) -> Tensor:
    """Number of tokens to mask again, int64 [B]: floor(positions * start_ratio * ratio).

    start_ratio: fraction masked at the start, [B] or a number; masked: int64 [B], masked now.
    Clipped to 1..masked - 1; a single masked token waits for the last step (published code).
    """
    start = torch.as_tensor(start_ratio, dtype=torch.float32, device=masked.device)
    count = (positions * (start * ratio)).floor().long()
    return torch.minimum(count, masked - 1).clamp(min=1)


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits, or on anything they are linear in."""
    return negative + scale * (positive - negative)


class StepResult(NamedTuple):
    """ids: int64 [B, H, W] after the step; proposal: before masking again."""

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
    """Draw the masked tokens, hold, rank by confidence, and mask the least confident again.

    logits: guided, [M, V] of the M masked tokens in reading order. ids, source: int64 [B, H, W];
    held: bool [B, H, W], with source. start_ratio: fraction masked at the start, [B] or a number.
    Known tokens stay known; the last step masks none. EditMGTError if logits are not finite.
    """
    flat = ids.flatten(1)
    pending = flat == mask_id
    probs = logits.float().softmax(-1)
    drawn = draw_tokens(probs, noise.tokens[pending.to(noise.tokens.device)].to(probs.device))
    proposal, ranked = flat.masked_scatter(pending, drawn), pending
    if held is not None and source is not None:
        hold, restore = held.flatten(1), options.hold_rule == "restore"
        proposal = torch.where(hold if restore else hold & pending, source.flatten(1), proposal)
        ranked = pending & ~hold if restore else pending
    drawn_probs = probs.gather(-1, proposal[pending][:, None])[:, 0]
    if not torch.isfinite(drawn_probs).all():
        raise EditMGTError(f"logits of step {step} are not finite; compute in float32 or bfloat16")
    next_ids = proposal
    if step < options.steps - 1:
        ones = torch.ones(flat.shape, dtype=torch.float32, device=flat.device)
        token_probs = ones.masked_scatter(pending, drawn_probs)
        uniform = noise.ranking.to(flat.device)
        confidence = _confidence(token_probs, uniform, options.temperature_at(step))
        ratio = mask_ratio(step, options.steps, options.schedule)
        count = n_masked(ratio, start_ratio, ranked.sum(-1), flat.shape[1])
        next_ids = proposal.masked_fill(_least_confident(confidence, ranked, count), mask_id)
    return StepResult(next_ids.view_as(ids), proposal.view_as(ids))


def _confidence(probs: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """log p + temperature * Gumbel noise, logarithms clamped as in the published code."""
    gumbel = -torch.log((-torch.log(uniform.clamp(1e-20))).clamp(1e-20))
    return torch.log(probs.clamp(1e-20)) + temperature * gumbel


def _least_confident(confidence: Tensor, ranked: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] ranked positions of lowest confidence, bool [B, HW]."""
    confidence = confidence.where(ranked, torch.inf)
    index = count.clamp(max=confidence.shape[1] - 1)[:, None]
    return confidence < confidence.sort(-1).values.gather(1, index)
