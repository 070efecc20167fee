"""Weights in 8 bits: float8_e4m3fn with one float32 scale per output row.

The largest value of a row becomes 448, the largest there is, so every weight keeps three bits after
its leading one unless it is less than 1/28,000 of the row's largest.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SCALE = "_scale"  # after the name of the weight, as ComfyUI's own files have it
SCHEME = "float8_e4m3fn weights X, multiplied by a float32 X_scale per output row"
LARGEST = 448.0


def row_scales(weight: "Tensor") -> "Tensor":
    """The scales [rows] of a weight [rows, columns]."""
    import torch

    largest = weight.float().abs().amax(dim=1)
    return (largest / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)


def quantise(weight: "Tensor") -> "Tensor":
    """Divide a weight [rows, columns] by its `row_scales` and round it to 8 bits."""
    import torch

    return (weight.float() / row_scales(weight)[:, None]).to(torch.float8_e4m3fn)


def dequantise(weight: "Tensor", scale: "Tensor") -> "Tensor":
    """The float32 weight that 8 bits and their scales stand for."""
    return weight.float() * scale[:, None]


def split_scales(
    state: "Mapping[str, Tensor]", where: str
) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """Separate tensors and scales, these under the names of their weights.

    8-bit weights may have no scales at all (cast plainly), or all of them.

    Raises CheckpointError for a weight without its scale, and a scale of another shape.
    """
    import torch

    small = [name for name, tensor in state.items() if tensor.dtype == torch.float8_e4m3fn]
    scales = {name: state[name + SCALE] for name in small if name + SCALE in state}
    for name in small if scales else ():
        if name not in scales:
            raise CheckpointError(f"{where} has no {name}{SCALE}; it is incomplete, fetch it again")
        if scales[name].dtype != torch.float32 or scales[name].shape != state[name].shape[:1]:
            raise CheckpointError(
                f"{where}: {name}{SCALE} is {scales[name].dtype} {list(scales[name].shape)}, "
                f"expected float32 [{state[name].shape[0]}]"
            )
    taken = {name + SCALE for name in scales}
    return {name: tensor for name, tensor in state.items() if name not in taken}, scales
