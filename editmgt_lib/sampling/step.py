"""One sampling step: mask schedule, token draw, region hold, ranking.

Pure functions (logits, ids, noise) -> ids that know nothing of images, text or devices. Where the
paper and the published scheduler differ, there is an option.
"""

from typing import NamedTuple

import torch
from torch import Tensor

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
    return torch.add(negative, positive - negative, alpha=scale)


def at(values: Tensor, rows: Tensor) -> Tensor:
    """Values [B, HW, ...] at positions [B, n]."""
    if values.ndim == 2:
        return values.gather(1, rows)
    return values[torch.arange(len(values), device=rows.device)[:, None], rows]


class StepResult(NamedTuple):
    """Result of a step.

    ids: int64 [B, H, W]; proposal: the same before masking again. order: positions [B, HW], those
    masked again first. finite: whether all logits were, bool [].
    """

    ids: Tensor
    proposal: Tensor
    order: Tensor
    total: Tensor


def masked_first(ids: Tensor, mask_id: int) -> Tensor:
    """Positions [B, HW] of tokens [B, H, W], masked ones first, in reading order."""
    return (ids.flatten(1) != mask_id).byte().argsort(dim=-1, stable=True)


def reveal_step(
    logits: Tensor,
    ids: Tensor,
    rows: Tensor,
    noise: StepNoise,
    *,
    step: int,
    options: SamplingOptions,
    mask_id: int,
    most: int | None = None,
    start_ratio: Tensor | float = 1.0,
    source: Tensor | None = None,
    held: Tensor | None = None,
) -> StepResult:
    """Draw the masked tokens, hold, rank by confidence, and mask the least confident again.

    logits: guided, [B, n, V] of the positions `rows` [B, n], all masked ones among them. ids,
    source: int64 [B, H, W]; held: bool [B, H, W], with source. most: mask at most so many tokens
    per item. start_ratio: fraction masked at the start, [B] or a number. Known tokens stay known;
    the last step masks none. Nothing here waits for the device.
    """
    flat = ids.flatten(1)
    pending = flat == mask_id
    probs = logits.float().softmax(-1)
    if options.token_temperature != 1:
        # As dividing the logits, but in place: they are the largest tensor of a run.
        probs.div_(probs.amax(-1, keepdim=True)).pow_(1 / options.token_temperature)
        probs.div_(probs.sum(-1, keepdim=True))
    drawn = draw_tokens(probs, at(noise.tokens, rows))
    proposal = torch.where(pending, flat.scatter(1, rows, drawn), flat)
    ranked = pending
    if held is not None and source is not None:
        hold, restore = held.flatten(1), options.hold_rule == "restore"
        proposal = torch.where(hold if restore else hold & pending, source.flatten(1), proposal)
        ranked = pending & ~hold if restore else pending
    row_probs = probs.gather(-1, at(proposal, rows)[..., None])[..., 0]
    next_ids, order = proposal, rows
    if step < options.steps - 1:
        token_probs = torch.ones_like(noise.ranking).scatter(1, rows, row_probs)
        confidence = _confidence(token_probs, noise.ranking, options.temperature_at(step))
        ratio = mask_ratio(step, options.steps, options.schedule)
        count = n_masked(ratio, start_ratio, ranked.sum(-1), flat.shape[1])
        count = count.clamp(max=flat.shape[1] if most is None else most)
        chosen, order = _least_confident(confidence, ranked, count)
        next_ids = proposal.masked_fill(chosen, mask_id)
    return StepResult(next_ids.view_as(ids), proposal.view_as(ids), order, row_probs.sum())


def _confidence(probs: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """log p + temperature * Gumbel noise, logarithms clamped as in the published code."""
    gumbel = -torch.log((-torch.log(uniform.clamp(1e-20))).clamp(1e-20))
    return torch.log(probs.clamp(1e-20)) + temperature * gumbel


def _least_confident(confidence: Tensor, ranked: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` [B] ranked positions of lowest confidence, bool [B, HW], and all in order.

    Fewer where others are as confident as the last of them (published code).
    """
    confidence = confidence.where(ranked, torch.inf)
    values, order = confidence.sort(-1)
    index = count.clamp(max=confidence.shape[1] - 1)[:, None]
    return confidence < values.gather(1, index), order
