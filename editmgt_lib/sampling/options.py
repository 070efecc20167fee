"""Options of a sampling run: one frozen dataclass, checked when built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import require_choice, require_number, use_plain_values
from ..choices import DRAWS, HOLD_RULES, REUSES, SCHEDULES
from ..errors import InputError
from ..models.attention import STRENGTH_SCOPES

# The approximations worth their error, see benchmarks/README.md.
FAST: Mapping[str, Any] = {"reuse": "known", "refresh": 8, "guidance_interval": (0.0, 0.5)}


@dataclass(frozen=True)
class SamplingOptions:
    """Options of a sampling run; defaults reproduce published inference. Raises InputError.

    steps: forward passes, 1..1000. Published: 36 (its README: 16 for simple tasks).
    guidance: text guidance, 0..100; active only above 1 (published code). Published: 6.
    strength: gamma, 0.01..100; log(gamma) is added to attention logits to and from the
        reference. Published: 1.1; 1 is neutral.
    strength_scope: "text+image" (published code: text rows too) or "image" (paper).
    temperature: Gumbel weight of the ranking at the first and last step, 0..1000; one number t
        stands for (t, 0.01) (published code). Published: (2, 0).
    token_temperature: divides the logits that tokens are drawn from, 0.01..100. Published: 1; less
        spares a small network its rare misses, where one wrong token spoils a picture.
    schedule: fraction of tokens masked after a step, "cosine" (published) or "linear".
    threshold: lambda, 0..1; tokens of lower relevance are held. Published: 0, off; best in the
        paper's ablation: 0.05 to 0.1.
    hold_rule: "proposal" (published code: a held token that is still masked takes the source
        token as proposal and competes in the ranking) or "restore" (paper: after each step every
        held token is the source token; mask counts then refer to the other tokens).
    draw: "inverse" (inverse cumulative sum of one uniform number per token) or "race" (the numbers
        torch.multinomial draws on a CPU generator, as published). Same distribution.
    seed: 0..2**64 - 1, item k of a batch using seed + k; or a tuple with one seed per item.
    guidance_interval: part of the run, 0..1, in which guidance acts; steps outside it take half
        the time. Not in the paper; (0, 1), all steps, is exact.
    reuse: which keys and values are reused from earlier steps: "none" (exact), those of the
        "reference", or those of the reference and all "known" tokens, so that a step's time is
        proportional to the tokens still masked. Not in the paper.
    refresh: with reuse, every k-th step recomputes everything; 1..1000.
    """

    steps: int = 36
    guidance: float = 6.0
    strength: float = 1.1
    strength_scope: str = "text+image"
    temperature: float | tuple[float, float] = (2.0, 0.0)
    token_temperature: float = 1.0
    schedule: str = "cosine"
    threshold: float = 0.0
    hold_rule: str = "proposal"
    draw: str = "inverse"
    seed: int | tuple[int, ...] = 0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    reuse: str = "none"
    refresh: int = 8

    def __post_init__(self) -> None:
        use_plain_values(self)
        require_number("steps", self.steps, 1, 1000, whole=True)
        require_number("guidance", self.guidance, 0, 100)
        require_number("strength", self.strength, 0.01, 100)
        require_number("token_temperature", self.token_temperature, 0.01, 100)
        require_number("threshold", self.threshold, 0, 1)
        require_choice("strength_scope", self.strength_scope, STRENGTH_SCOPES)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("hold_rule", self.hold_rule, HOLD_RULES)
        require_choice("draw", self.draw, DRAWS)
        ends = self._temperatures
        if len(ends) != 2:
            raise InputError(f"temperature is {ends!r}; use one number or (first, last)")
        for end in ends:
            require_number("temperature", end, 0, 1000)
        require_choice("reuse", self.reuse, REUSES)
        require_number("refresh", self.refresh, 1, 1000, whole=True)
        self._check_interval()
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            require_number("seed", seed, 0, 2**64 - 1, whole=True)

    def _check_interval(self) -> None:
        interval = self.guidance_interval
        if not isinstance(interval, tuple) or len(interval) != 2 or interval[0] > interval[1]:
            raise InputError(f"guidance_interval is {interval!r}; use (from, to), as in (0.0, 0.5)")
        for end in interval:
            require_number("guidance_interval", end, 0, 1)

    @property
    def guided(self) -> bool:
        """Whether the negative half is needed."""
        return self.guidance > 1.0

    def guided_at(self, step: int) -> bool:
        """Whether the negative half is needed at this step."""
        first, last = self.guidance_interval
        return self.guided and first <= (step + 0.5) / self.steps <= last

    def reuses_at(self, step: int) -> bool:
        """Whether this step reuses keys and values."""
        return self.reuse != "none" and 0 < step < self.steps and step % self.refresh != 0

    @property
    def _temperatures(self) -> tuple[float, ...]:
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature, 0.01)

    def temperature_at(self, step: int) -> float:
        """Gumbel weight of a step, rounded to float32 (published code)."""
        first, last = self._temperatures
        weights = torch.linspace(first, last, self.steps, dtype=torch.float32, device="cpu")
        return float(weights[step])

    def seeds(self, batch: int) -> tuple[int, ...]:
        """One seed per item; InputError for a tuple of another length."""
        if isinstance(self.seed, int):
            return tuple((self.seed + k) % 2**64 for k in range(batch))
        if len(self.seed) != batch:
            raise InputError(f"seed has {len(self.seed)} entries for {batch} items; give {batch}")
        return self.seed
