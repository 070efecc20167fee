"""Embeddings of ids, timesteps and conditions, and the head that gives logits."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [n, width] float32 of scalars [n], cosines first.

    Frequencies are rounded once, from float64: float32 exponentials differ between processors in
    the last place, which at 35,000 radians moves an embedding by 1e-3, enough to flip tokens.
    """
    exponent = torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2)
    frequency = torch.exp(-math.log(10000) * exponent).float()
    angle = values.float()[:, None] * frequency.to(values.device)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def to_positions(tokens: Tensor, side: int) -> Tensor:
    """Cut a token grid [B, H, W, ...] into its positions [B, n, side, side, ...]."""
    return rearrange(tokens, "b (h p) (w q) ... -> b (h w) p q ...", p=side, q=side)


def from_positions(parts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `to_positions`; grid: rows and columns of positions."""
    return rearrange(parts, "b (h w) p q ... -> b (h p) (w q) ...", h=grid[0], w=grid[1])


class TwoLayer(nn.Module):
    """MLP: linear, SiLU, linear."""

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True, operations=nn) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(in_width, out_width, bias=bias)
        self.linear_2 = operations.Linear(out_width, out_width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Connector(nn.Module):
    """Linear map (named `projector`) from the language model's width D to the transformer's, C."""

    def __init__(self, in_width: int, out_width: int, operations=nn) -> None:
        super().__init__()
        self.projector = operations.Linear(in_width, out_width)

    def forward(self, text: Tensor) -> Tensor:
        return self.projector(text)


class TimeTextEmbedding(nn.Module):
    """Sum of the timestep's and the condition vector's embeddings."""

    def __init__(self, width: int, operations=nn) -> None:
        super().__init__()
        self.timestep_embedder = TwoLayer(256, width, operations=operations)
        self.text_embedder = TwoLayer(width, width, operations=operations)

    def forward(self, timestep: Tensor, vector: Tensor) -> Tensor:
        """Timesteps [S] or [S, B] (already scaled) and vector [B, C] -> [S, B, C]."""
        time = self.timestep_embedder(sinusoid(timestep.flatten(), 256).to(vector.dtype))
        return time.unflatten(0, (len(timestep), -1)) + self.text_embedder(vector)


def channels_last_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm over the channels of [B, C, H, W]."""
    return rearrange(norm(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


class TokenEmbedding(nn.Module):
    """Token ids [B, H, W] -> features [B, C, H, W]: table, RMS norm, 1x1 convolution."""

    def __init__(self, vocab_size: int, width: int, operations=nn) -> None:
        super().__init__()
        self.embeddings = operations.Embedding(vocab_size, width)
        self.layer_norm = operations.RMSNorm(width, eps=1e-6)
        self.conv = operations.Conv2d(width, width, 1, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv(self.layer_norm(self.embeddings(ids)).permute(0, 3, 1, 2))


class TokenHead(nn.Module):
    """Head in two parts: features, then a projection without bias to logits over the codebook.

    The projection is the costly part. As it is linear, guidance can be applied before it, and it is
    computed only for tokens to be drawn.
    """

    def __init__(self, width: int, codebook_size: int, operations=nn) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(width, width, 1, bias=False)
        self.layer_norm = operations.RMSNorm(width, eps=1e-6)
        self.conv2 = operations.Conv2d(width, codebook_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, C, H, W] -> [B, H, W, C], which logits are linear in."""
        return self.layer_norm(self.conv1(x).permute(0, 2, 3, 1))

    def logits(self, rows: Tensor) -> Tensor:
        """Rows [M, C] of these features -> logits [M, V], in the dtype of the weights."""
        rows = rows.to(self.conv2.weight.dtype)
        if type(self.conv2) is nn.Conv2d:
            return F.linear(rows, self.conv2.weight.flatten(1))
        # Layers of a host move and cast their weights as they are called.
        pixels = rearrange(rows, "m c -> 1 c m 1")
        return self.conv2(pixels).permute(0, 2, 3, 1).flatten(0, 2)


class Resample(nn.Module):
    """Norm and strided 2x2 convolution, or its transpose, between tokens and positions."""

    def __init__(self, width: int, *, up: bool, operations=nn) -> None:
        super().__init__()
        layer = operations.ConvTranspose2d if up else operations.Conv2d
        self.norm = operations.RMSNorm(width, eps=1e-6)
        self.conv = layer(width, width, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(channels_last_norm(self.norm, x))


class DownBlock(nn.Module):
    """Holds the downsampling layer under its published name; identity where there is none."""

    def __init__(self, width: int, enabled: bool, operations=nn) -> None:
        super().__init__()
        self.downsample = Resample(width, up=False, operations=operations) if enabled else None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class UpBlock(nn.Module):
    """Holds the upsampling layer under its published name; identity where there is none."""

    def __init__(self, width: int, enabled: bool, operations=nn) -> None:
        super().__init__()
        self.upsample = Resample(width, up=True, operations=operations) if enabled else None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.upsample is None else self.upsample(x)
