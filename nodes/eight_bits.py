"""Weights that stay in 8 bits in memory: widened layer by layer, when they are used.

A layer has them as `weight`, float8_e4m3fn, and one float32 `row_scale` per output row. ComfyUI's
own scaled layers know one scale per tensor, and in some versions round the activations too.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..editmgt_lib.checkpoints.fp8 import quantise, row_scales
from ..editmgt_lib.checkpoints.packing import LAYER_WEIGHT


def in_8_bits(layer: nn.Module) -> bool:
    """Whether a layer's weight is stored with scales."""
    return hasattr(layer, "row_scale")


def widened(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply a weight, cast to the dtype it is computed with, by its scales.

    The result is what loading it in that dtype gives, bit for bit: 8 bits fit into every dtype.
    """
    return (weight.float() * scale.to(weight.device)[:, None]).to(weight.dtype)


class WideningLinear(nn.Linear):
    """A linear layer of another library, with weights in 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """As the base."""
        return F.linear(x, widened(self.weight.to(x.dtype), self.row_scale), self.bias)


def round_weights(network: nn.Module) -> None:
    """Round the matrices of a network's layers to 8 bits, as `editmgt convert` does."""
    for name, layer in network.named_modules():
        found = isinstance(layer, nn.Linear) and LAYER_WEIGHT.search(f"{name}.weight")
        if not found or in_8_bits(layer):
            continue
        weight = layer.weight
        layer.weight = nn.Parameter(quantise(weight), requires_grad=False)
        layer.register_buffer("row_scale", row_scales(weight), persistent=False)


def let_layers_widen(network: nn.Module) -> None:
    """Make torch's own layers that have 8-bit weights multiply by their scales."""
    for layer in network.modules():
        if type(layer) is nn.Linear and in_8_bits(layer):
            layer.__class__ = WideningLinear  # keeps the hooks and names it already has
