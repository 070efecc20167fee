"""Validation while training: what a loss on random masks cannot tell.

Held-out samples under the same masks every time, so that checkpoints differ by their weights alone.
Of an edit, tokens that change and tokens that stay are measured apart; the gaps say whether the
network uses its instruction and its reference at all. Nothing is generated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import require_number, use_plain_values
from ..data.draws import draws
from ..data.source import TokenBatch, TokenSource
from ..errors import InputError
from .generation import GenerationStage, Masked
from .objective import changed_tokens, draw_mask, token_losses

QUANTITIES = (
    "loss", "changed_loss", "kept_loss", "changed_accuracy", "copied",
    "instruction_gap", "instruction_gap_changed", "reference_gap", "reference_gap_kept",
)  # fmt: skip
"""Means over masked tokens: negative log-likelihood of all, of those that change and of those that
stay; how many are predicted right; and what the loss gains from the sample's own instruction over
another sample's, and from the reference over none: 0 means unused."""


@dataclass(frozen=True)
class ValidationOptions:
    """What to validate on. Raises InputError.

    Attributes:
        samples: the first so many of the held-out source, 2 or more.
        ratios: fractions masked, each above 0 and up to 1.
        seeds: of the masks; each adds a mask per sample and ratio.
        batch: samples in one pass.
        gaps: measure the two gaps, which takes three times as long.
    """

    samples: int = 32
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    seeds: tuple[int, ...] = (0, 1)
    batch: int = 8
    gaps: bool = True

    def __post_init__(self) -> None:
        use_plain_values(self)
        require_number("samples", self.samples, 2, whole=True)
        require_number("batch", self.batch, 1, whole=True)
        for name in ("ratios", "seeds"):
            if not isinstance(getattr(self, name), tuple) or not getattr(self, name):
                raise InputError(f"{name} is {getattr(self, name)!r}; give a list of numbers")
        for ratio in self.ratios:
            require_number("ratios", ratio, 0.001, 1)
        for seed in self.seeds:
            require_number("seeds", seed, 0, whole=True)


@dataclass(frozen=True, repr=False)
class Tally:
    """Sums and counts, so that the results of several processes can be added up exactly.

    Attributes:
        sums, counts: float64 [ratios, `QUANTITIES`], on the CPU.
        largest: float64 [ratios], the largest logit by magnitude.
    """

    sums: Tensor
    counts: Tensor
    largest: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.sums + other.sums,
            self.counts + other.counts,
            torch.maximum(self.largest, other.largest),
        )

    def reduced(
        self, add: Callable[[Tensor], Tensor], largest: Callable[[Tensor], Tensor]
    ) -> "Tally":
        """Combine those of all processes, given the sum and the maximum over processes."""
        return Tally(add(self.sums), add(self.counts), largest(self.largest))

    def summary(self, options: ValidationOptions) -> dict[str, Any]:
        """Means by ratio, and their mean over ratios; None where there was nothing to measure."""
        means = (self.sums / self.counts).tolist()
        rows = [
            {k: None if v != v else v for k, v in zip(QUANTITIES, row, strict=True)}
            for row in means
        ]
        for row, largest in zip(rows, self.largest.tolist(), strict=True):
            row["max_logit"] = largest
        overall = {name: _mean([row[name] for row in rows]) for name in QUANTITIES}
        by_ratio = {f"{r:g}": row for r, row in zip(options.ratios, rows, strict=True)}
        return overall | {"max_logit": float(self.largest.max()), "by_ratio": by_ratio}


@torch.no_grad()
def validate(
    stage: GenerationStage,
    heldout: TokenSource,
    options: ValidationOptions,
    rank: int = 0,
    world: int = 1,
) -> Tally:
    """Measure this process's share of the samples with the stage's present weights."""
    numbers = range(options.samples)[rank::world]
    shape = len(options.ratios), len(QUANTITIES)
    zeros = torch.zeros(shape, dtype=torch.float64)
    tally = Tally(zeros, zeros, zeros[:, 0])
    for start in range(0, len(numbers), options.batch):
        some = numbers[start : start + options.batch]
        others = [(n + options.samples // 2) % options.samples for n in some]
        batch, other = heldout.batch(some), heldout.batch(others)
        rows = [
            _measure(stage, batch, other if options.gaps else None, some, ratio, options.seeds)
            for ratio in options.ratios
        ]
        sums, counts, largest = (torch.stack(part) for part in zip(*rows, strict=True))
        tally = tally + Tally(sums, counts, largest)
    return tally


def _measure(
    stage: GenerationStage,
    batch: TokenBatch,
    other: TokenBatch | None,
    numbers: Sequence[int],
    ratio: float,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, counts [Q] and the largest logit of a batch at one mask ratio."""
    sums = counts = torch.zeros(len(QUANTITIES), dtype=torch.float64)
    largest = torch.zeros((), dtype=torch.float64)
    for seed in seeds:
        found, logit = _under_one_mask(stage, batch, other, numbers, ratio, seed)
        parts = [found.get(name, (torch.zeros(()), torch.zeros(()))) for name in QUANTITIES]
        sums = sums + torch.stack([total.double().cpu() for total, _ in parts])
        counts = counts + torch.stack([count.double().cpu() for _, count in parts])
        largest = torch.maximum(largest, logit.double().cpu())
    return sums, counts, largest


def _under_one_mask(
    stage: GenerationStage,
    batch: TokenBatch,
    other: TokenBatch | None,
    numbers: Sequence[int],
    ratio: float,
    seed: int,
) -> tuple[Mapping[str, tuple[Tensor, Tensor]], Tensor]:
    """Sum and count of each quantity, and the largest logit."""
    grid = tuple(batch.target.shape[1:])
    masks = [draw_mask(draws(seed, n, f"validation {ratio:g}"), grid, ratio) for n in numbers]
    masked = _masked(stage, batch, torch.stack(masks), ratio)
    logits = stage.logits(masked, stage.predict(masked))
    hidden, target = masked.masked, masked.target
    losses = token_losses(logits, target, hidden)
    right = torch.zeros_like(hidden).masked_scatter(hidden, logits.argmax(-1) == target[hidden])
    comparable = masked.source is not None and masked.source.shape == target.shape
    changed = hidden & changed_tokens(target, masked.source)
    kept = hidden & ~changed if comparable else torch.zeros_like(hidden)
    found = {
        "loss": _over(losses, hidden),
        "changed_loss": _over(losses, changed),
        "kept_loss": _over(losses, kept),
        "changed_accuracy": _over(right, changed),
        "copied": _over(right, kept),
    }
    if other is not None:
        shuffled = replace(batch, prompts=other.prompts, pooled=other.pooled)
        gap = _losses(stage, _masked(stage, shuffled, masked.masked.cpu(), ratio)) - losses
        differs = [a != b for a, b in zip(batch.prompts, other.prompts, strict=True)]
        differs = torch.tensor(differs, device=hidden.device)[:, None, None]
        found["instruction_gap"] = _over(gap, hidden & differs)
        found["instruction_gap_changed"] = _over(gap, changed & differs)
    if other is not None and masked.source is not None:
        gap = _losses(stage, replace(masked, source=None)) - losses
        found["reference_gap"] = _over(gap, hidden)
        found["reference_gap_kept"] = _over(gap, kept)
    return found, logits.abs().max()


def _masked(stage: GenerationStage, batch: TokenBatch, masks: Tensor, ratio: float) -> Masked:
    none = [False] * len(batch)
    return stage.masked(batch, masks, [ratio] * len(batch), silent=none, bare=none)


def _losses(stage: GenerationStage, masked: Masked) -> Tensor:
    logits = stage.logits(masked, stage.predict(masked))
    return token_losses(logits, masked.target, masked.masked)


def _over(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    return (values * where).sum(), where.sum()


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean, ignoring None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- what moves the logits ---


@torch.no_grad()
def input_effects(
    stage: GenerationStage, source: TokenSource, numbers: Sequence[int] = range(8)
) -> dict[str, float]:
    """How much each input moves the logits of half-masked samples, 0 if the network ignores it.

    The root mean square change when the input is replaced, over that of the logits without their
    mean over codes: time by the other end of a run, text rows, pooled text and tokens of the
    reference by another sample's, micro-conditions by those of a larger, cropped picture.
    """
    grid = tuple(source.batch(numbers).target.shape[1:])
    masks = torch.stack([draw_mask(draws(0, n, "effects"), grid, 0.5) for n in numbers])
    base = _masked(stage, source.batch(numbers), masks, 0.5)
    if base.pooled is None:
        base = replace(base, pooled=stage.text_encoders.pooled(base.clip_ids))
    last = 1000.0 if stage.options.time == "ratio" else stage.options.steps - 1.0
    ends = [replace(base, timestep=torch.full_like(base.timestep, t)) for t in (0.0, last)]
    micro = base.micro_conditions
    larger = torch.cat([2 * micro[:, :2], micro[:, 2:4] + micro[:, :2] / 4, micro[:, 4:] - 1], 1)
    pairs = {
        "time": tuple(ends),
        "pooled": (base, replace(base, pooled=base.pooled.roll(1, 0))),
        "micro_conditions": (base, replace(base, micro_conditions=larger)),
        "text": (base, replace(base, text_ids=base.text_ids.roll(1, 0))),
    }
    if base.source is not None:
        pairs["reference"] = (base, replace(base, source=base.source.roll(1, 0)))
    return {name: _effect(stage, *pair) for name, pair in pairs.items()}


def _effect(stage: GenerationStage, one: Masked, other: Masked) -> float:
    logits, moved = (stage.logits(m, stage.predict(m)).double() for m in (one, other))
    size = (logits - logits.mean(dim=-1, keepdim=True)).square().mean()
    change = moved - logits
    change = change - change.mean(dim=-1, keepdim=True)  # the softmax ignores a common shift
    return float((change.square().mean() / size).sqrt())
