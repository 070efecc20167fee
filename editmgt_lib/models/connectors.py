"""Connectors from the language model's width to the transformer's; `linear` is published."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig
from .embeddings import sinusoid


class Projector(nn.Module):
    """A stack of linear layers with GELU between, under the published name `projector`."""

    def __init__(self, widths: list[int], operations=nn) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [nn.GELU()] if i else []
            layers.append(operations.Linear(a, b))
        self.projector = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, text: Tensor, timestep: Tensor) -> Tensor:
        """Text states [B, T, D] -> [B, T, C]; the timestep has no say."""
        return self.projector(text)


class AdaptiveNorm(nn.Module):
    """Layer norm whose shift and scale come from a time embedding."""

    def __init__(self, width: int, time_width: int, operations=nn) -> None:
        super().__init__()
        self.linear = operations.Linear(time_width, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, L, C], time [B, 1, E] -> [B, L, C]."""
        shift, scale = self.linear(F.silu(time)).chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class SquaredReLU(nn.Module):
    """relu(x) squared."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.relu(x).square()


class PerceiverBlock(nn.Module):
    """Latents attend to themselves and to the text, then an MLP; both steps time-modulated."""

    def __init__(self, width: int, heads: int, time_width: int, operations=nn) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=operations.Linear(width, 4 * width),
                sq_relu=SquaredReLU(),
                c_proj=operations.Linear(4 * width, width),
            )
        )
        self.ln_1 = AdaptiveNorm(width, time_width, operations)
        self.ln_2 = AdaptiveNorm(width, time_width, operations)
        self.ln_ff = AdaptiveNorm(width, time_width, operations)

    def forward(self, text: Tensor, latents: Tensor, time: Tensor) -> Tensor:
        """Text [B, T, C] and latents [B, L, C] -> latents."""
        query = self.ln_1(latents, time)
        keys = torch.cat([query, self.ln_2(text, time)], dim=1)
        latents = latents + self.attn(query, keys, keys, need_weights=False)[0]
        return latents + self.mlp(self.ln_ff(latents, time))


class Resampler(nn.Module):
    """The `qformer` connector: learned latents read the text, aware of the timestep."""

    def __init__(self, config: TransformerConfig, operations=nn) -> None:
        super().__init__()
        width, time_width = config.width, config.qformer_time_width
        self.latents = nn.Parameter(torch.zeros(config.qformer_latents, width))
        self.time_aware_linear = operations.Linear(time_width, width)
        self.proj_in = operations.Linear(config.joint_attention_dim, width)
        self.time_width = time_width
        self.perceiver_blocks = nn.ModuleList(
            PerceiverBlock(width, config.qformer_heads, time_width, operations) for _ in range(3)
        )

    def forward(self, text: Tensor, timestep: Tensor) -> Tensor:
        """Text [B, T, D], scaled timesteps [B] -> latents [B, L, C]."""
        time = sinusoid(timestep, self.time_width, cosine_first=False, frequency_shift=1.0)
        time = time.to(text.dtype)[:, None]
        latents = self.latents[None] + self.time_aware_linear(F.silu(time))
        text = self.proj_in(text)
        for block in self.perceiver_blocks:
            latents = block(text, latents, time)
        return latents


def build_connector(config: TransformerConfig, operations=nn) -> nn.Module | None:
    """The connector a config asks for; None for `none`."""
    text, width = config.joint_attention_dim, config.width
    match config.connector_type:
        case "linear":
            return Projector([text, width], operations)
        case "mlp":
            return Projector([text, width, width], operations)
        case "fmlp":
            return Projector([text, 4 * text, width, width], operations)
        case "qformer":
            return Resampler(config, operations)
        case _:
            return None
