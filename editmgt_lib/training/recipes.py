"""Named recipes: sizes, schedules and losses of each stage."""

from dataclasses import dataclass

from ..models.config import TransformerConfig
from ..models.vq import VQConfig
from .generation import GenerationOptions
from .loop import LoopOptions

STAGES = ("text", "tokenizer", "text-to-image", "edit", "decoder")
SPARE_CODES = 64  # rows of the embedding beyond the codebook, as published; the last is the mask


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedules of all stages; those between text and decoder are the paper's.

    Attributes:
        size: picture side in pixels. text_length: text rows.
        tokenizer, transformer: the networks.
        continuous: tokenizer steps before the codebook is used.
        loops: schedule of each stage. generation, edit: how these two stages train.
    """

    size: int
    text_length: int
    tokenizer: VQConfig
    transformer: TransformerConfig
    continuous: int
    loops: dict[str, LoopOptions]
    generation: GenerationOptions
    edit: GenerationOptions


def _tokenizer(width: int, codes: int, patch: int) -> VQConfig:
    # No norms and a 1x1 encoder: a token depends on its own cell only, so none changes outside an
    # edit. Patches instead of strided convolutions: CPUs are slow at full-resolution ones.
    return VQConfig(
        block_out_channels=(width,),
        layers_per_block=1,
        latent_channels=16,
        num_vq_embeddings=codes,
        norm_num_groups=0,
        patch_size=patch,
        encoder_kernel_size=1,
    )


def _transformer(heads: int, axes: tuple[int, ...], double: int, single: int, codes: int):
    return TransformerConfig(
        num_layers=double,
        num_single_layers=single,
        num_attention_heads=heads,
        attention_head_dim=sum(axes),
        joint_attention_dim=192,
        pooled_projection_dim=64,
        axes_dims_rope=axes,
        vocab_size=codes + SPARE_CODES,
        codebook_size=codes,
        downsample=True,
        upsample=True,
        connector_type="linear",
    )


_TEXT = LoopOptions(700, 64, 3e-3, warmup=50, cooldown=350, average=0.99)

CPU = Recipe(
    size=128,
    text_length=32,
    tokenizer=_tokenizer(128, 2048, 8),
    transformer=_transformer(4, (8, 20, 20), 2, 4, 2048),
    continuous=100,
    loops={
        "text": _TEXT,
        "tokenizer": LoopOptions(
            1500, 16, 1e-3, warmup=50, cooldown=750, average=0.99, clip=0.3,
            sheet_every=300, checkpoint_every=300,
        ),
        "text-to-image": LoopOptions(
            1600, 16, 1.2e-3, muon=2e-3, warmup=60, sheet_every=400, checkpoint_every=200
        ),
        "edit": LoopOptions(
            5000, 16, 1.2e-3, muon=2e-3, warmup=60, cooldown=2500,
            sheet_every=500, checkpoint_every=250,
        ),
        "decoder": LoopOptions(
            1500, 16, 1e-3, warmup=50, cooldown=1000, average=0.99, clip=0.3, checkpoint_every=250
        ),
    },
    generation=GenerationOptions(edit=False, size=128, steps=16, first_step=0.25, patches=0.5),
    edit=GenerationOptions(
        edit=True, size=128, steps=16, text_dropout=0.05, changed_weight=3.0, alignment=0.05,
        aligned_blocks=(4,), first_step=0.25, patches=0.5, generate_share=0.08,
    ),
)  # fmt: skip

GPU = Recipe(
    size=256,
    text_length=32,
    tokenizer=_tokenizer(192, 4096, 16),
    transformer=_transformer(6, (8, 20, 20), 4, 8, 4096),
    continuous=200,
    loops={
        "text": _TEXT,
        "tokenizer": LoopOptions(
            6000, 64, 1e-3, cooldown=3000, average=0.99, clip=0.3,
            sheet_every=2000, checkpoint_every=1000,
        ),
        # A step is thousands of small kernels, slower to launch than to run: twice the batch is
        # nearly free, so there are half as many steps. Pictures and states are rarer than on a CPU,
        # since work on the host stalls the GPU.
        "text-to-image": LoopOptions(
            4000, 128, 1e-3, muon=2e-3, warmup=200, sheet_every=2000, checkpoint_every=1000
        ),
        "edit": LoopOptions(
            10000, 128, 1e-3, muon=2e-3, warmup=200, cooldown=4000,
            sheet_every=2000, checkpoint_every=1000,
        ),
        "decoder": LoopOptions(
            6000, 64, 1e-3, cooldown=4000, average=0.99, clip=0.3,
            sheet_every=2000, checkpoint_every=1000,
        ),
    },
    generation=GenerationOptions(edit=False, size=256, steps=16, first_step=0.25, patches=0.5),
    edit=GenerationOptions(
        edit=True, size=256, steps=16, text_dropout=0.05, changed_weight=3.0, alignment=0.05,
        aligned_blocks=(8, 9), first_step=0.25, patches=0.5, generate_share=0.08,
    ),
)  # fmt: skip

RECIPES = {"toyworld-cpu": CPU, "toyworld-gpu": GPU}
