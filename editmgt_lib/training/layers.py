"""Layers of a network in training, given to it in place of `torch.nn`."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, ConvTranspose2d, Embedding, Linear

__all__ = ["Conv2d", "ConvTranspose2d", "Embedding", "Linear", "RMSNorm"]


class RMSNorm(nn.RMSNorm):
    """RMS norm whose float32 gain follows the input's type.

    Autocast casts the weights of products but not this one, and with two types torch leaves the
    fused kernel, which computes in float32 inside, for a chain of slow ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
