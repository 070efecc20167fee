"""Layers of a network in training, given to it in place of `torch.nn`."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn import Embedding, Linear

__all__ = ["Conv2d", "ConvTranspose2d", "Embedding", "Linear", "RMSNorm"]


class RMSNorm(nn.RMSNorm):
    """RMS norm whose float32 gain follows the input's type.

    Autocast casts the weights of products but not this one, and with two types torch leaves the
    fused kernel, which computes in float32 inside, for a chain of slow ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Conv2d(nn.Conv2d):
    """A convolution that steps by its own size, as the matrix product that it is.

    CPUs take several times as long for the backward pass of the convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != self.kernel_size or any(self.padding):
            return super().forward(x)
        i, j = self.kernel_size
        rows = rearrange(x, "b c (h i) (w j) -> b h w (c i j)", i=i, j=j)
        return F.linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ConvTranspose2d(nn.ConvTranspose2d):
    """Likewise, the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        i, j = self.kernel_size
        weight = rearrange(self.weight, "c o i j -> (o i j) c")
        rows = F.linear(x.permute(0, 2, 3, 1), weight)
        return rearrange(rows, "b h w (o i j) -> b o (h i) (w j)", i=i, j=j)
