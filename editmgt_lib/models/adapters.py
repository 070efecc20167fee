"""Low-rank updates of linear layers (LoRA), as part of the network's forward pass.

An update acts on rows, not on weights: the rows of a stream go through a layer in one product,
and each segment adds the updates of its own. So an adapter can act on the reference alone, whose
tokens share all weights with the target's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(NamedTuple):
    """The update `up @ down` of a weight; down: [rank, in], up: [out, rank]."""

    down: Tensor
    up: Tensor

    def product(self, x: Tensor) -> Tensor:
        """Multiply rows [..., in] by the update."""
        return F.linear(F.linear(x, self.down), self.up)


Updates = Mapping[str, LowRank]  # by the name of a layer within its block
NO_UPDATES: Updates = {}


class BlockUpdates(NamedTuple):
    """Updates of one block: on text and target rows, and on the reference's."""

    known: Updates = NO_UPDATES
    reference: Updates = NO_UPDATES


class Adapter(nn.Module):
    """Low-rank updates of a network's layers.

    Args:
        layers: by the layer's name in the network.
        scales: a factor for each.
        reference_only: whether they act on the reference's rows alone.
    """

    def __init__(
        self, layers: Mapping[str, LowRank], scales: Mapping[str, float], reference_only: bool
    ) -> None:
        super().__init__()
        self.scales, self.reference_only = dict(scales), reference_only
        self.names = tuple(layers)
        self.down = nn.ParameterList(layer.down for layer in layers.values())
        self.up = nn.ParameterList(layer.up for layer in layers.values())
        self.requires_grad_(False)

    def layers(self) -> Iterator[tuple[str, LowRank]]:
        """Names and updates, made of the parameters themselves, without the factors."""
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            yield name, LowRank(down, up)


def block_updates(
    adapters: Iterable[Adapter], blocks: Iterable[str], like: Tensor
) -> tuple[BlockUpdates, ...]:
    """Sum the adapters' updates for each of the named blocks, with the device and dtype of `like`.

    Several updates of a layer become one of the sum of their ranks.
    """
    adapters = list(adapters)
    return tuple(
        BlockUpdates(
            _summed((a for a in adapters if not a.reference_only), f"{block}.", like),
            _summed(adapters, f"{block}.", like),
        )
        for block in blocks
    )


def _summed(adapters: Iterable[Adapter], prefix: str, like: Tensor) -> Updates:
    found: dict[str, list[LowRank]] = {}
    for adapter in adapters:
        for name, layer in adapter.layers():
            if name.startswith(prefix):
                scaled = LowRank(layer.down, layer.up * adapter.scales[name])
                found.setdefault(name.removeprefix(prefix), []).append(scaled)
    return {
        name: LowRank(
            torch.cat([layer.down.to(like) for layer in layers]),
            torch.cat([layer.up.to(like) for layer in layers], dim=1),
        )
        for name, layers in found.items()
    }


def nothing_of(adapters: Iterable[Adapter]) -> Tensor | float:
    """Zero, computed from every trainable parameter of the adapters.

    Distributed training needs each of them in every step's graph, but an adapter of the reference
    has no rows where there is none, nor has a layer whose result on the reference nothing reads.
    """
    trained = [p for adapter in adapters for p in adapter.parameters() if p.requires_grad]
    return sum(p[:0].sum() for p in trained)
