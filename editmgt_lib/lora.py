"""LoRA: a small file that changes what a checkpoint does.

    model = editmgt_lib.load("owner/name", lora=[("hats.safetensors", 0.8)])

Scope `both` changes weights, so it is merged into them. Scope `reference` acts on the reference's
tokens alone, which share all weights with the target's: it stays beside the network and acts as it
runs. In training (`training.lora`) both do.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .checkpoints.fp8 import SCALE, dequantise, split_scales
from .checkpoints.lora_files import listing, read_lora, write_lora
from .checks import require_choice, require_number
from .errors import CheckpointError, InputError
from .models.adapters import Adapter, LowRank
from .models.blocks import TEXT_LAYERS
from .models.transformer import MaskedTransformer

SCOPES = ("both", "reference")
LARGEST_STRENGTH = 2.0
EMBEDDING = "embed.embeddings.weight"  # two axes, but no linear layer


class LoraLayer(NamedTuple):
    """The update `alpha / rank * up @ down` of one layer; down: [rank, in], up: [out, rank]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank

    def product(self) -> Tensor:
        """The update of the weight, [out, in] float32."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, eq=False, repr=False)
class Lora:
    """Low-rank updates of a transformer.

    Attributes:
        layers: by the layer's name, which in files of other programs has underscores for dots.
        scope: `"both"`: on all tokens; `"reference"`: on those of the picture to edit alone.
        metadata: plain values, such as `base` (digest of the weights it was trained on), `steps`
            and `trigger`.
        notes: what its file did not say and what was assumed.
        where: what messages call it.
    """

    layers: Mapping[str, LoraLayer]
    scope: str = "both"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: str = "the LoRA"

    def __post_init__(self) -> None:
        require_choice("scope", self.scope, SCOPES)

    def __repr__(self) -> str:
        return f"Lora({self.where}, {len(self.layers)} layers, rank {self.rank}, {self.scope})"

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def alpha(self) -> float:
        """Of a layer of that rank."""
        return next(layer.alpha for layer in self.layers.values() if layer.rank == self.rank)

    @classmethod
    def read(cls, path: str | Path, scope: str | None = None) -> "Lora":
        """Read a file of ours, diffusers, peft, kohya or the official script.

        path: may be the folder that peft or the official script wrote.
        scope: for files that do not say theirs; by default `"both"`.

        Raises InputError, CheckpointError: see `checkpoints.lora_files.read_lora`.
        """
        file = read_lora(path)
        layers = {name: LoraLayer(*parts) for name, parts in file.layers.items()}
        chosen = scope or file.scope or "both"
        return cls(layers, chosen, file.metadata, file.notes, str(path))

    def write(self, path: str | Path) -> Path:
        """Write a file that peft and diffusers read too; see `checkpoints.lora_files`."""
        about = {"rank": self.rank, "alpha": self.alpha}
        return write_lora(path, self.layers, self.scope, {**self.metadata, **about})

    def fitted(self, weights: Mapping[str, Tensor]) -> "Lora":
        """Name the layers as the network's weights do, strictly.

        Raises CheckpointError listing names that the network lacks, and shapes that differ.
        """
        by_underscores = {n.replace(".", "_"): n for n in weights if n.endswith(".weight")}
        layers, unknown, wrong = {}, [], []
        for name, layer in self.layers.items():
            weight = f"{name}.weight"
            weight = weight if weight in weights else by_underscores.get(f"{name}_weight")
            if weight is None:
                unknown.append(name)
                continue
            shape, own = tuple(weights[weight].shape), (layer.up.shape[0], layer.down.shape[1])
            if shape != own:
                wrong.append(f"{name}: checkpoint {list(shape)}, LoRA {list(own)}")
            layers[weight.removesuffix(".weight")] = layer
        if unknown or wrong:
            raise CheckpointError(
                f"{self.where} does not fit the checkpoint; use the one it was trained on"
                + listing("layers that the checkpoint lacks", unknown)
                + listing("other shapes", wrong)
            )
        return replace(self, layers=layers)


Stack = Sequence[tuple[Lora, float]]  # with their strengths


def read_stack(files: Iterable[str | Path | tuple[str | Path | Lora, float]]) -> Stack:
    """Read LoRA files, given alone or with strengths of -2..2; strength 0 leaves one out.

    Raises InputError, CheckpointError.
    """
    stack: list[tuple[Lora, float]] = []
    for entry in files:
        file, strength = entry if isinstance(entry, tuple) else (entry, 1.0)
        require_number(f"strength of {file}", strength, -LARGEST_STRENGTH, LARGEST_STRENGTH)
        lora = file if isinstance(file, Lora) else Lora.read(file)
        if strength:
            stack.append((lora, float(strength)))
    return tuple(stack)


def merged(weights: Mapping[str, Tensor], stack: Stack) -> dict[str, Tensor]:
    """Add LoRAs of scope `both` to a checkpoint's tensors; those they change become float32.

    weights: by name; 8-bit ones may have their scales beside them. Tensors are not changed in
    place. The order of the stack does not matter: updates are summed in float64.

    Raises InputError for scope `reference`; CheckpointError: see `Lora.fitted`.
    """
    updates: dict[str, list[tuple[LoraLayer, float]]] = {}
    for lora, strength in stack:
        if lora.scope != "both":
            raise InputError(
                f"{lora.where} acts on the reference alone and cannot be merged into weights, "
                "which the picture shares; use it with `load(lora=...)` or --lora"
            )
        for name, layer in lora.fitted(weights).layers.items():
            updates.setdefault(f"{name}.weight", []).append((layer, strength))
    if not updates:
        return dict(weights)
    bare, scales = split_scales(weights, "the checkpoint")
    result = dict(weights)
    for name, parts in updates.items():
        weight = dequantise(bare[name], scales[name]) if name in scales else bare[name]
        result[name] = _sum(weight, parts)
        result.pop(name + SCALE, None)
    return result


def _sum(weight: Tensor, parts: Sequence[tuple[LoraLayer, float]]) -> Tensor:
    total = weight.double()
    for layer, strength in parts:
        total = total + strength * layer.product().double()
    return total.float()


def merge(network: nn.Module, stack: Stack) -> None:
    """Add LoRAs of scope `both` to a network's weights, in place, rounded to their dtype."""
    own = network.state_dict()
    changed = merged(own, stack)
    with torch.no_grad():
        for name, tensor in own.items():
            if changed[name] is not tensor:
                tensor.copy_(changed[name])


def attach(network: MaskedTransformer, lora: Lora, strength: float = 1.0) -> Adapter:
    """Let a LoRA act on a network as it runs, its weights staying as they are.

    Returns the adapter, now part of `network.adapters`; remove it from there to undo this.

    Raises CheckpointError for layers that the network lacks; InputError for those that no rows of
    the scope go through.
    """
    adapter = adapter_of(network, lora, strength)
    network.adapters.append(adapter)
    return adapter


def adapter_of(network: MaskedTransformer, lora: Lora, strength: float = 1.0) -> Adapter:
    """The adapter that `attach` adds; errors as there."""
    lora = lora.fitted(network.state_dict())
    able = adaptable(network, lora.scope)
    if idle := [name for name in lora.layers if name not in able]:
        raise InputError(
            f"{lora.where}: with scope {lora.scope} these layers cannot be adapted; "
            f"use those of the blocks that its tokens go through{listing('layers', idle)}"
        )
    device = next(network.parameters()).device
    layers = {n: LowRank(x.down.to(device), x.up.to(device)) for n, x in lora.layers.items()}
    scales = {n: x.scale * strength for n, x in lora.layers.items()}
    return Adapter(layers, scales, lora.scope == "reference")


def adaptable(network: MaskedTransformer, scope: str) -> dict[str, nn.Linear]:
    """Layers that an adapter of this scope can act on."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if hasattr(layer, "key") and (scope == "both" or not layer.key.startswith(TEXT_LAYERS))
    }


def kinds_of(lora: Lora) -> list[str]:
    """Its layers' names without block numbers, each once."""
    return list(
        dict.fromkeys(re.sub(r"(?<=[._])\d+(?=[._])", "*", n, count=1) for n in lora.layers)
    )


def extract(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], rank: int = 16) -> Lora:
    """The LoRA that comes nearest to the difference of two checkpoints' weights.

    `metadata["kept"]` is the share 0..1 of the difference's squares that it holds. Tensors that no
    LoRA can change (norms, biases, convolutions) are named in the notes.

    Raises CheckpointError when the checkpoints have other names or shapes; InputError when they are
    equal.
    """
    require_number("rank", rank, 1, whole=True)
    base, tuned = _wide(base), _wide(tuned)
    layers, left, whole, lost = {}, [], 0.0, 0.0
    odd = sorted(base.keys() ^ tuned.keys()) + [
        n for n in base.keys() & tuned.keys() if base[n].shape != tuned[n].shape
    ]
    if odd:
        raise CheckpointError("the checkpoints are not of one shape" + listing("tensors", odd))
    for name, weight in base.items():
        if torch.equal(weight, tuned[name]):
            continue
        if weight.ndim != 2 or not name.endswith(".weight") or name == EMBEDDING:
            left.append(name)
            continue
        difference = tuned[name].double() - weight.double()
        u, s, v = torch.linalg.svd(difference, full_matrices=False)
        whole, lost = whole + float(s.square().sum()), lost + float(s[rank:].square().sum())
        root, kept = s[:rank].sqrt(), min(rank, len(s))
        down, up = (root[:, None] * v[:rank]).float(), (u[:, :rank] * root).float()
        layers[name.removesuffix(".weight")] = LoraLayer(down, up, float(kept))
    if not layers:
        raise InputError("the checkpoints have no linear layer that differs; give two others")
    notes = (f"not in the LoRA: {', '.join(left[:8])} ({len(left)} in all)",) if left else ()
    return Lora(layers, metadata={"kept": 1 - lost / whole}, notes=notes)


def _wide(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with 8-bit ones widened."""
    bare, scales = split_scales(weights, "the checkpoint")
    return {n: dequantise(t, scales[n]) if n in scales else t for n, t in bare.items()}
