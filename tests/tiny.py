"""Sizes of the tiny networks that tests build: 16 px a token, 2x2 tokens a position."""

from dataclasses import replace

from editmgt_lib.models.config import TransformerConfig
from editmgt_lib.models.vq import VQConfig

CODES, MASK = 32, 39
VQ = VQConfig(
    block_out_channels=(16,),
    layers_per_block=1,
    latent_channels=4,
    num_vq_embeddings=CODES,
    norm_num_groups=0,
    patch_size=16,
    encoder_kernel_size=1,
)
TRANSFORMER = TransformerConfig(
    num_layers=1,
    num_single_layers=2,
    num_attention_heads=2,
    attention_head_dim=16,
    joint_attention_dim=16,
    pooled_projection_dim=16,
    axes_dims_rope=(4, 6, 6),
    vocab_size=MASK + 1,
    codebook_size=CODES,
    downsample=True,
    upsample=True,
    connector_type="linear",
)
# Of CLIP's width, 64, as it takes CLIP's states without a connector.
MEISSONIC = replace(
    TRANSFORMER, num_attention_heads=4, joint_attention_dim=64, connector_type="none"
)
