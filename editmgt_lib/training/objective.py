"""The masked objective: which tokens are hidden, what is dropped, and how errors are weighted.

Pure functions. Every draw of a sample comes from a generator of its own (`data.draws`), so a sample
is masked alike in any batch, on any number of processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_choice, require_number, use_plain_values
from ..choices import MASK_LAWS, NORMALIZATIONS, TIMES
from ..errors import InputError

HEAVY = 5.0  # rate of the "exp" law
BINS = (0.0, 0.1, 0.3, 0.6, 0.9, 1.01)  # of mask ratios, for the figures


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the loss is. Raises InputError. `PUBLISHED` is what the published code does.

    Attributes:
        mask_law: fraction masked, from u uniform in 0..1: "cos" (u pi/2; published), "linear"
            (1 - u) or "exp" (1 - exp(-5 (1 - u)), mostly near 1; eMIGM, arXiv 2503.07197).
        first_step: fraction of samples with all tokens masked, as at the first sampling step, where
            the text alone decides. Published: 0.
        patches: fraction of samples whose masked tokens are contiguous instead of scattered, as
            near the end of sampling. Published: 0.
        text_dropout: fraction of samples with an empty prompt, without which guidance has nothing
            to guide from. Published: 0.
        reference_dropout: fraction of edits trained without their reference. Published: 0.
        normalization: "token", mean over all masked tokens of the global batch (published: of the
            micro-batch), or "sample", mean of each sample's mean. By "token", the 6 % of samples
            with fewest masked tokens (under .1) make up 0.5 % of the loss.
        label_smoothing: share of the target probability spread over all codes. Published: 0.
        changed_weight: weight of tokens that differ from the reference if these are few, falling to
            1 if all do. Published: 1.
        alignment: weight of a loss that *supervises* the text-to-image attention of
            `aligned_blocks`, averaged over the prompt's words, with the changed tokens. With it, a
            good map is no evidence that attention localizes by itself. Published: 0.
        time: what the network is told: "step", the index of the sampling step with that mask ratio,
            as in sampling, or "ratio", mask ratio x 1000 (published, though sampling is by step).
        steps: of a sampling run, for `time="step"`.
        strength: reference strength. Published: 1, though sampling takes 1.1.
    """

    mask_law: str = "cos"
    first_step: float = 0.0
    patches: float = 0.0
    text_dropout: float = 0.1
    reference_dropout: float = 0.0
    normalization: str = "token"
    label_smoothing: float = 0.0
    changed_weight: float = 1.0
    alignment: float = 0.0
    aligned_blocks: tuple[int, ...] = ()
    time: str = "step"
    steps: int = 36
    strength: float = 1.0

    def __post_init__(self) -> None:
        use_plain_values(self)
        require_choice("mask_law", self.mask_law, MASK_LAWS)
        require_choice("normalization", self.normalization, NORMALIZATIONS)
        require_choice("time", self.time, TIMES)
        for name in ("first_step", "patches", "text_dropout", "reference_dropout"):
            require_number(name, getattr(self, name), 0, 1)
        require_number("label_smoothing", self.label_smoothing, 0, 0.999)
        require_number("changed_weight", self.changed_weight, 0)
        require_number("alignment", self.alignment, 0)
        require_number("steps", self.steps, 1, 1000, whole=True)
        require_number("strength", self.strength, 0.01, 100)
        if self.alignment and not self.aligned_blocks:
            raise InputError("aligned_blocks is empty; name blocks to align, or use alignment 0")


PUBLISHED = ObjectiveOptions(text_dropout=0.0, time="ratio")


# --- draws ---


def ratio_at(law: str, u: float) -> float:
    """Fraction masked, 0..1, at u in 0..1; 1 or nearly so at u = 0."""
    if law == "cos":
        return math.cos(u * math.pi / 2)
    return 1 - u if law == "linear" else 1 - math.exp(-HEAVY * (1 - u))


def draw_ratio(rng: np.random.Generator, options: ObjectiveOptions) -> float:
    """Draw the fraction to mask of one sample."""
    first, u = rng.random(2)
    return 1.0 if first < options.first_step else ratio_at(options.mask_law, u)


def draw_mask(
    rng: np.random.Generator, grid: tuple[int, int], ratio: float, patches: float = 0.0
) -> Tensor:
    """Draw which tokens to mask, bool [H, W]: `ratio` of them, at least one."""
    contiguous, noise = rng.random() < patches, rng.random(grid)
    if contiguous:
        # The sampler reveals certain tokens first and leaves whole objects to the end.
        coarse = torch.from_numpy(rng.random((1, 1, 5, 5)))
        noise = F.interpolate(coarse, grid, mode="bilinear")[0, 0].numpy() + 0.05 * noise
    count = max(1, round(ratio * noise.size))
    masked = np.zeros(noise.size, dtype=bool)
    masked[noise.ravel().argsort(kind="stable")[:count]] = True
    return torch.from_numpy(masked.reshape(grid))


def draw_dropped(rng: np.random.Generator, options: ObjectiveOptions) -> tuple[bool, bool]:
    """Draw whether a sample loses its prompt, and its reference."""
    text, reference = rng.random(2)
    return bool(text < options.text_dropout), bool(reference < options.reference_dropout)


def timestep_of(ratio: float, options: ObjectiveOptions) -> float:
    """Time input at a mask ratio; by step, on the sampler's cosine schedule."""
    if options.time == "ratio":
        return 1000.0 * ratio
    done = math.acos(min(1.0, max(0.0, ratio))) * 2 / math.pi
    # The tolerance keeps a ratio exactly at a step's start on that step.
    return float(max(0, options.steps - 1 - math.floor(done * options.steps + 1e-9)))


# --- losses ---


def changed_tokens(target: Tensor, source: Tensor | None) -> Tensor:
    """Where the target differs from its source, bool [B, H, W]; nowhere without one.

    Nowhere also if the grids differ, since no token then has a counterpart.
    """
    if source is None or source.shape != target.shape:
        return torch.zeros_like(target, dtype=torch.bool)
    return target != source


def token_weights(changed: Tensor, changed_weight: float) -> Tensor:
    """Weight of every token in the loss, float32 [B, H, W]."""
    few = 1 - changed.float().mean(dim=(1, 2), keepdim=True)
    return 1 + (changed_weight - 1) * few * changed


def normalized(values: Tensor, weights: Tensor, normalization: str) -> tuple[Tensor, Tensor]:
    """Sum of values [B, H, W] and what to divide it by, each summed over the global batch.

    weights: 0 where a value does not count.
    """
    sums, totals = (values * weights).sum(dim=(1, 2)), weights.sum(dim=(1, 2))
    if normalization == "token":
        return sums.sum(), totals.sum()
    counted = totals > 0
    return (sums / totals.where(counted, 1.0)).sum(), counted.sum()


def token_losses(logits: Tensor, target: Tensor, masked: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits [M, V] of masked tokens, put in their places: float32 [B, H, W]."""
    losses = F.cross_entropy(
        logits.float(), target[masked], reduction="none", label_smoothing=smoothing
    )
    return torch.zeros(target.shape, device=losses.device).masked_scatter(masked, losses)


def alignment_losses(scores: Sequence[Tensor], changed: Tensor, stride: int) -> Tensor:
    """Cross-entropy [B] between normalized score maps [B, N] and the changed positions.

    Args:
        scores: one map per block, N positions in reading order.
        changed: bool [B, H, W] on the token grid; an item without changes has loss 0.
        stride: tokens per position, along each side.
    """
    target = F.max_pool2d(changed.float()[:, None], stride).flatten(1)
    probs = [s / s.sum(dim=1, keepdim=True) for s in scores]
    loss = sum(-(target * (p + 1e-9).log()).sum(dim=1) for p in probs) / len(probs)
    return loss / target.sum(dim=1).clamp(min=1)


def binned(values: Tensor, ratio: Tensor) -> list[Tensor]:
    """Sums of values [B] by mask ratio, one for each of `BINS`."""
    return [(values * ((ratio >= low) & (ratio < high))).sum() for low, high in pairwise(BINS)]
