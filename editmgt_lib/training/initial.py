"""Initial weights of a transformer trained from nothing, and the attention it trains with."""

import torch
from torch import Tensor, nn

from ..models.blocks import DoubleBlock, SingleBlock
from ..models.config import TransformerConfig
from ..models.transformer import MaskedTransformer

SPREAD = 0.02


def plain_attention(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """Attention as three plain operations: on short sequences the CPU is faster at its backward."""
    logits = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (logits if key_bias is None else logits + key_bias).softmax(dim=-1).to(v.dtype) @ v


def new_transformer(config: TransformerConfig, seed: int) -> MaskedTransformer:
    """A transformer with small normal weights whose blocks start as plain pre-norm blocks.

    Modulation starts at shift 0, scale 0, gate 1 for every condition: gates that start at 0 leave
    the blocks without gradient for the first hundreds of steps, which a short run can't spare.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedTransformer(config, attention=plain_attention)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=SPREAD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
    for block in model.blocks:
        if isinstance(block, DoubleBlock):
            _open(block.norm1.linear, gates=(2, 5), parts=6)
            _open(block.norm1_context.linear, gates=(2, 5), parts=6)
        elif isinstance(block, SingleBlock):
            _open(block.norm.linear, gates=(2,), parts=3)
    return model


@torch.no_grad()
def _open(layer: nn.Linear, gates: tuple[int, ...], parts: int) -> None:
    nn.init.zeros_(layer.weight)
    rows = layer.bias.view(parts, -1)
    rows.zero_()
    rows[list(gates)] = 1.0
