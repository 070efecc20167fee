"""Training a LoRA: its layers by name, its start, and its way to a file."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import require_choice, require_number
from ..errors import InputError
from ..lora import SCOPES, Lora, LoraLayer, adaptable, attach
from ..models.transformer import MaskedTransformer

USUAL_TARGETS = ("to_q", "to_k", "to_v")  # the official script's


def new_lora(
    network: MaskedTransformer,
    targets: Sequence[str] = USUAL_TARGETS,
    *,
    rank: int = 16,
    alpha: float | None = None,
    scope: str = "both",
    seed: int = 0,
) -> Lora:
    """A LoRA to be trained, which does nothing yet: `up` is zero.

    targets: names of layers, their ends (`to_q`), or patterns (`single_*.proj_mlp`).
    alpha: by default the rank.

    Raises InputError for a target that matches no layer, naming near ones.
    """
    require_number("rank", rank, 1, whole=True)
    alpha = float(rank if alpha is None else alpha)
    require_number("alpha", alpha, 1e-3)
    require_choice("scope", scope, SCOPES)
    layers, generator = {}, torch.Generator().manual_seed(seed)
    for name, layer in _targeted(network, targets, scope).items():
        rows, columns = layer.weight.shape
        bound = 1 / math.sqrt(columns)  # what peft's initial values come to
        down = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        layers[name] = LoraLayer(down, torch.zeros(rows, rank), alpha)
    return Lora(layers, scope)


def _targeted(
    network: MaskedTransformer, targets: Sequence[str], scope: str
) -> dict[str, nn.Linear]:
    able, found = adaptable(network, scope), set()
    for target in [targets] if isinstance(targets, str) else targets:
        matches = {n for n in able if fnmatchcase(n, target) or fnmatchcase(n, f"*.{target}")}
        if not matches:
            known = sorted({layer.key for layer in able.values()})
            ends = {key.removeprefix("attn."): None for key in known}
            near = get_close_matches(target, [*known, *ends, *able], 4, 0.5) or known
            raise InputError(
                f"target {target!r} matches no layer that scope {scope} can train; "
                f"use a name such as {', '.join(near)}"
            )
        found |= matches
    if not found:
        raise InputError(f"targets is {targets!r}; name layers to train, such as to_q")
    return {name: layer for name, layer in able.items() if name in found}


def add_adapter(network: MaskedTransformer, lora: Lora) -> list[nn.Parameter]:
    """Give a network a LoRA to train, new or trained before, and freeze everything else.

    Returns the trainable parameters, in float32. Every step uses all of them, also one without a
    reference, where those of scope `reference` get gradients of zero.
    """
    network.requires_grad_(False)
    adapter = attach(network, lora).float().requires_grad_(True)
    return list(adapter.parameters())


def save_adapter(
    path: str | Path, network: MaskedTransformer, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write the network's adapter, as trained by `add_adapter`, to a file."""
    return adapter_lora(network, metadata).write(path)


def weights_digest(network: nn.Module) -> str:
    """Digest of a network's weights without its adapters, whatever files they came from."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        if not name.startswith("adapters."):
            digest.update(name.encode())
            digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def adapter_lora(network: MaskedTransformer, metadata: Mapping[str, Any] | None = None) -> Lora:
    """A copy of the network's only adapter."""
    (adapter,) = network.adapters
    layers = {
        name: LoraLayer(
            layer.down.detach().cpu().clone(),
            layer.up.detach().cpu().clone(),
            adapter.scales[name] * layer.down.shape[0],
        )
        for name, layer in adapter.layers()
    }
    return Lora(layers, "reference" if adapter.reference_only else "both", metadata or {})
