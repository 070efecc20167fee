"""Initial weights of a transformer trained from scratch."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.backends import math_attention
from ..models.blocks import DoubleBlock, SingleBlock
from ..models.config import TransformerConfig
from ..models.projections import AttentionLayers
from ..models.transformer import MaskedTransformer
from ..models.vq import VQModel
from ..text.encoders import TextEncoders
from ..toyworld.batches import crowded_scene, to_pixels
from ..toyworld.language import corpus
from ..toyworld.text_encoders import build_text_encoders
from . import layers

SPREAD = 0.02  # of embeddings and head
RESIDUAL = 0.5  # scale of the layers that write to the residual stream
PICTURES = 400  # drawn to learn what each code looks like
OWN_PLACE = 8.0  # bias of queries and keys that look at their own place, beside inputs of 1
SHARPNESS = 2.0  # gain of the channels that tell neighbours apart; leaves them 1/5 of the attention


def new_transformer(config: TransformerConfig, seed: int) -> MaskedTransformer:
    """Build a transformer with fan-in-scaled weights whose blocks start as plain pre-norm blocks.

    Modulation starts at shift 0, scale 0, gate 1: gates of 0 would leave the blocks without
    gradient for hundreds of steps, which a short run cannot spare. For the same reason, half the
    heads of double blocks start by looking at their own place, in target and reference.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedTransformer(config, layers, math_attention)
        scale_by_fan_in(model)
        for layer in (model.embed.embeddings, model.mlm_layer.conv2):
            nn.init.normal_(layer.weight, std=SPREAD)
    for block in model.blocks:
        if isinstance(block, DoubleBlock):
            _look_at_own_place(block.attn, config.axes_dims_rope)
            _open(block.norm1.linear, gates=(2, 5), parts=6)
            _open(block.norm1_context.linear, gates=(2, 5), parts=6)
        elif isinstance(block, SingleBlock):
            _open(block.norm.linear, gates=(2,), parts=3)
    return model


def new_text_encoders(config: TransformerConfig, text_length: int, seed: int) -> TextEncoders:
    """Build small text encoders with ToyWorld's vocabulary, sized for a transformer."""
    encoders = build_text_encoders(
        corpus(),
        text_length=text_length,
        width=config.joint_attention_dim,
        pooled=config.pooled_projection_dim,
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in encoders.modules_to_train():
            scale_by_fan_in(module)
    return encoders


@torch.no_grad()
def scale_by_fan_in(module: nn.Module) -> None:
    """Draw normal weights of variance 1 / fan-in, smaller in residual outputs; zero the biases.

    At these small widths the usual 0.02 would all but cut the picture off from the text.
    """
    writers = ("to_out.0.weight", "to_add_out.weight", "net.2.weight", "proj_out.weight")
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            gain = RESIDUAL if name.endswith(writers) else 1.0
            nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


@torch.no_grad()
def code_features(vq: VQModel, size: int, width: int, seed: int) -> Tensor:
    """Describe what each code looks like: unit rows [codes, width], alike for similar codes.

    A row is the code's mean pixel patch on the principal axes of all patches, half whitened; it
    spares a transformer learning every code separately. Codes never seen get random rows.
    """
    rng, factor = np.random.default_rng(seed), vq.config.factor
    codes = vq.config.num_vq_embeddings
    sums, counts = torch.zeros(codes, 3 * factor**2), torch.zeros(codes, 1)
    for _ in range(PICTURES // 20):
        pixels = to_pixels([crowded_scene(rng) for _ in range(20)], size)
        ids = vq.encode(pixels).flatten()
        patches = F.pixel_unshuffle(pixels, factor).flatten(2).transpose(1, 2).flatten(0, 1)
        sums.index_add_(0, ids, patches)
        counts.index_add_(0, ids, torch.ones(len(ids), 1))
    seen = counts[:, 0] > 0
    mean = sums[seen] / counts[seen]
    left, values, _ = torch.linalg.svd(mean - mean.mean(dim=0), full_matrices=False)
    features = torch.randn(codes, width, generator=torch.Generator().manual_seed(seed))
    axes = (left * values.sqrt())[:, :width]
    features[seen] = F.pad(axes, (0, width - axes.shape[1]))
    return F.normalize(features, dim=1)


@torch.no_grad()
def seed_with_codes(model: MaskedTransformer, features: Tensor, seed: int) -> None:
    """Initialize embedding and head from code features [codes, width / tokens per position].

    Each token of a position gets a slice of the hidden channels, in embedding and head alike, so
    that an unchanged hidden state already predicts its own token.
    """
    codes, part = features.shape
    identity = torch.eye(model.config.width)
    noise = torch.randn(codes, model.config.width, generator=torch.Generator().manual_seed(seed))
    model.embed.embeddings.weight[:codes] = SPREAD * noise
    model.embed.embeddings.weight[:codes, :part] += features
    model.mlm_layer.conv2.weight[:, :part, 0, 0] += features / 2
    for layer in (model.embed.conv, model.mlm_layer.conv1):
        layer.weight[..., 0, 0] += identity
    for linear in (model.project_to_hidden, model.project_from_hidden):
        linear.weight += identity
    if model.config.stride == 2:
        down, up = model.down_block.downsample.conv, model.up_block.upsample.conv
        for slot in range(4):
            rows, (i, j) = slice(slot * part, (slot + 1) * part), divmod(slot, 2)
            down.weight[rows, :part, i, j] += torch.eye(part)
            up.weight[rows, :part, i, j] += torch.eye(part)


@torch.no_grad()
def _open(layer: nn.Linear, gates: tuple[int, ...], parts: int) -> None:
    nn.init.zeros_(layer.weight)
    rows = layer.bias.view(parts, -1)
    rows.zero_()
    rows[list(gates)] = 1.0


@torch.no_grad()
def _look_at_own_place(attn: AttentionLayers, axes: tuple[int, ...]) -> None:
    """Make half the heads attend to the image tokens at the query's own row and column.

    Equal queries and keys leave the rotation alone to decide, whose fastest two turns per axis tell
    neighbours apart. Left to itself, a small network takes thousands of steps to find that an edit
    is a copy but for what changes.
    """
    ends = torch.tensor(axes).cumsum(0)[:-1].tolist()  # where rows and columns start
    channels = [end + i for end, axis in zip(ends, axes[1:], strict=True) for i in range(axis)[:4]]
    for layer, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k)):
        layer.bias.view(attn.heads, -1)[: attn.heads // 2, channels] = OWN_PLACE
        norm.weight[channels] = SHARPNESS
