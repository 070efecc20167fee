"""Where a network computes, which its weights do not always tell."""

import torch
from torch import nn


def workplace(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and number format a network takes its inputs in: those of its first parameter.

    Unless whoever keeps its weights elsewhere or in a smaller format, and brings them over layer by
    layer, has written both into the network's attribute `workplace`.
    """
    stated = getattr(network, "workplace", None)
    if stated is not None:
        return stated
    first = next(network.parameters())
    return first.device, first.dtype
