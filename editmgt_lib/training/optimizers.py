"""Optimizers: which parameters decay, which learn slowly, which train with Muon."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import require_choice, require_number
from ..errors import InputError

# The layers that embed time and pooled text have large inputs: at the full rate, an AdamW step
# moves their output by more than its size, until it is all negative and SiLU passes nothing.
CONDITIONING = ("time_text_embed.", "cond_embed.")
# By whose list weights decay: matrices alone; all; or all but the names that the published script
# lists, which are another model's, so that its norms' gains decay.
DECAY = ("matrices", "all", "published")
PUBLISHED_NO_DECAY = ("bias", "layer_norm.weight", "mlm_ln.weight", "embeddings.weight")


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW, and Muon beside it. Raises InputError.

    Attributes:
        learning_rate: plateau, above 0.
        muon: plateau for matrices inside transformer blocks, which then train with Muon (twice the
            progress per step from scratch; harmful to a network that Adam trained, except through
            LoRA: arXiv 2605.10468); 0 trains them with AdamW.
        conditioning_rate: factor on the rate of the layers that embed time and pooled text.
        weight_decay, betas, epsilon: of AdamW.
        decay: what decays, out of `DECAY`.
        clip: largest gradient norm, above 0.
    """

    learning_rate: float
    muon: float = 0.0
    conditioning_rate: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    decay: str = "matrices"
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip"):
            require_number(name, getattr(self, name), 1e-12)
        for name in ("weight_decay", "muon", "conditioning_rate", "epsilon"):
            require_number(name, getattr(self, name), 0)
        for beta in self.betas:
            require_number("betas", beta, 0, 1)
        require_choice("decay", self.decay, DECAY)


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], options: OptimizerOptions
) -> list[torch.optim.Optimizer]:
    """Build AdamW, and Muon for matrices inside blocks if `options.muon` is set.

    Each group has a "plateau", the rate that the schedule scales.

    Raises InputError if this torch has no Muon, or its parameters are spread over processes.
    """
    o = options
    if o.muon and not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon optimizer; install torch >= 2.9")
    hidden = {n: p for n, p in parameters.items() if o.muon and _is_hidden_matrix(n, p)}
    if any(hasattr(p, "placements") for p in hidden.values()):
        raise InputError("muon needs whole matrices; use parallel 'ddp', or muon 0")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if name in hidden:
            continue
        slow = any(part in name for part in CONDITIONING)
        rate = o.learning_rate * (o.conditioning_rate if slow else 1.0)
        decay = o.weight_decay if decays(name, parameter, o.decay) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        listed = [
            {"params": members, "lr": rate, "weight_decay": decay, "plateau": rate}
            for (rate, decay), members in groups.items()
        ]
        optimizers.append(torch.optim.AdamW(listed, o.learning_rate, o.betas, o.epsilon))
    if hidden:
        muon = torch.optim.Muon(
            list(hidden.values()), o.muon, weight_decay=o.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        muon.param_groups[0]["plateau"] = o.muon
        optimizers.append(muon)
    return optimizers


def decays(name: str, parameter: Tensor, rule: str) -> bool:
    """Whether a parameter's weight decays by a rule of `DECAY`."""
    if rule == "matrices":
        return parameter.ndim >= 2 and "embeddings." not in name and "embed_tokens." not in name
    return rule == "all" or not name.endswith(PUBLISHED_NO_DECAY)


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a matrix maps hidden states; modulation layers, which map conditions, do not."""
    inside = "_blocks." in name and ".norm" not in name
    return parameter.ndim == 2 and (inside or "adapters." in name)


# Optimizer state of a parameter.
KEPT = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq")}
if hasattr(torch.optim, "Muon"):
    KEPT[torch.optim.Muon] = ("momentum_buffer",)
