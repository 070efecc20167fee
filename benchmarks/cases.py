"""What is measured: sizes, and a checkpoint folder with random weights made from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import editmgt_lib
from editmgt_lib.checkpoints import save_module
from editmgt_lib.models.config import TransformerConfig
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQConfig, VQModel
from editmgt_lib.text.encoders import TextEncoders
from editmgt_lib.text.instruction import Instruction
from editmgt_lib.text.loading import second_last_gemma
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders, save_text_folders

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"  # both sides read it under this name
PROMPT = "make the red heart blue"


@dataclass(frozen=True)
class Case:
    """One configuration.

    text_length: text rows. side: token rows and columns. layers: blocks read for localization.
    steps: of a schedule; cpu_steps: of whole runs timed on a CPU.
    trained: the shipped checkpoint with its text encoders, not random weights.
    text_encoders: builds random text encoders, where the case has any.
    """

    name: str
    transformer: TransformerConfig
    vq: VQConfig
    text_length: int
    side: int
    layers: tuple[int, int]
    steps: int = 36
    cpu_steps: int = 4
    guidance: float = 6.0
    trained: bool = False
    text_encoders: Callable[[], TextEncoders] | None = None

    @property
    def official_vq(self) -> bool:
        """Whether the official tokenizer class can be built in this size."""
        return self.vq.patch_size == 1 and self.vq.norm_num_groups > 0


def _published_transformer() -> TransformerConfig:
    return TransformerConfig(
        num_layers=14, num_single_layers=28, num_attention_heads=8, attention_head_dim=128,
        joint_attention_dim=2304, pooled_projection_dim=1024, axes_dims_rope=(16, 56, 56),
        vocab_size=8256, codebook_size=8192, downsample=True, upsample=True,
        connector_type="linear",
    )  # fmt: skip


def _vq(*widths: int) -> VQConfig:
    return VQConfig(
        block_out_channels=widths, layers_per_block=2, latent_channels=64,
        num_vq_embeddings=8192, norm_num_groups=32,
    )  # fmt: skip


def published() -> Case:
    """1.009 B parameters at 1024 x 1024, blocks 28..36 read."""
    return Case("published", _published_transformer(), _vq(128, 256, 256, 512, 768), 256, 64,
                layers=(28, 36), text_encoders=published_text_encoders)  # fmt: skip


def mid() -> Case:
    """4 + 8 blocks of width 512 on the published token grid, and a tokenizer a quarter as wide."""
    transformer = replace(
        _published_transformer(), num_layers=4, num_single_layers=8, attention_head_dim=64,
        axes_dims_rope=(8, 28, 28),
    )  # fmt: skip
    # No double-stream block is read: the official code cannot at a strength other than 1.
    return Case("mid", transformer, _vq(32, 64, 64, 128, 192), 256, 64, layers=(4, 11))


def toyworld() -> Case:
    """The shipped checkpoint at 16 x 16 tokens."""
    model = editmgt_lib.load("toyworld", device="cpu", text=False)
    settings = model.settings
    config = model.transformer.config
    blocks = settings.localization.block_range(config.num_layers, config.num_single_layers)
    return Case(
        "toyworld", config, model.vq.config, settings.text_length,
        settings.resolution // model.vq.config.factor, layers=(blocks[0], blocks[-1]),
        steps=settings.sampling.steps, cpu_steps=settings.sampling.steps, guidance=3.0,
        trained=True,
    )  # fmt: skip


def tiny() -> Case:
    """Everything the published case has, in seconds on a CPU: for trying the scripts."""
    transformer = replace(
        _published_transformer(), num_layers=1, num_single_layers=2, num_attention_heads=2,
        attention_head_dim=16, joint_attention_dim=16, pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6), vocab_size=40, codebook_size=32,
    )  # fmt: skip
    vq = VQConfig(
        block_out_channels=(8, 16, 16), layers_per_block=2, latent_channels=4,
        num_vq_embeddings=32, norm_num_groups=4,
    )  # fmt: skip

    def encoders() -> TextEncoders:
        return build_text_encoders(corpus(), text_length=8, width=16, pooled=16)

    return Case("tiny", transformer, vq, 8, 8, layers=(1, 2), steps=3, cpu_steps=3,
                text_encoders=encoders)  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    "toyworld": toyworld, "mid": mid, "published": published, "tiny": tiny
}  # fmt: skip


def random_network(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build on the meta device, then fill so that every parameter matters and none overflows.

    The numbers are drawn on a GPU if there is one; the network is on the CPU.
    """
    with torch.device("meta"):
        network = build()
    place = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to_empty(device=place).requires_grad_(False)
    generator = torch.Generator(place).manual_seed(seed)
    for name, p in network.named_parameters():
        p.normal_(generator=generator)
        if p.ndim > 1 and not name.endswith(("embeddings.weight", "embedding.weight")):
            p.div_(math.sqrt(p[0].numel()))
        elif p.ndim == 1:
            p.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return network.to("cpu")


def published_text_encoders() -> TextEncoders:
    """CLIP ViT-H's text half and Gemma-2 2B with random weights, in bfloat16.

    The tokenizers are ToyWorld's: their ids exist in the large vocabularies, and rows are padded to
    the same length whatever the text, so the work is that of the published encoders.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, Gemma2Config

    small = build_text_encoders(corpus(), text_length=77, width=64, pooled=64)
    end = small.clip_tokenizer.eos_token_id
    clip = CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, projection_dim=1024,
        num_hidden_layers=24, num_attention_heads=16, max_position_embeddings=77,
        hidden_act="gelu", bos_token_id=small.clip_tokenizer.bos_token_id, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip
    gemma = Gemma2Config(
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256, query_pre_attn_scalar=256,
    )  # fmt: skip
    return TextEncoders(
        random_network(lambda: CLIPTextModelWithProjection(clip), 4).to(torch.bfloat16),
        small.clip_tokenizer,
        random_network(lambda: second_last_gemma(gemma), 5).to(torch.bfloat16),
        small.gemma_tokenizer,
        256,
    )


def write_checkpoint(case: Case, folder: Path) -> None:
    """Write the parts of a case in the published layout; trained parts are copied."""
    if case.trained:
        transformer = editmgt_lib.load("toyworld", device="cpu", text=False).transformer
    else:
        transformer = random_network(lambda: MaskedTransformer(case.transformer), seed=1)
        vq = random_network(lambda: VQModel(case.vq), seed=2)
        save_module(folder / "vqvae", vq, case.vq.to_dict(), weights_name=WEIGHTS_NAME)
    if case.text_encoders is not None:
        save_text_folders(folder, case.text_encoders())
    config = case.transformer.to_dict()
    save_module(folder / "editmgt", transformer, config, weights_name=WEIGHTS_NAME)


def random_inputs(case: Case, seed: int = 3) -> dict[str, Tensor]:
    """Text states, reference tokens and a picture [B, 3, H, W] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    wide, pooled = case.transformer.joint_attention_dim, case.transformer.pooled_projection_dim
    side, pixels = case.side, case.side * case.vq.factor
    codes = case.transformer.codebook_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    return {
        "states": normal(case.text_length, wide),
        "pooled": normal(pooled),
        "negative_states": normal(case.text_length, wide),
        "negative_pooled": normal(pooled),
        "reference": torch.randint(codes, (1, side, side), generator=generator),
        "picture": torch.rand(1, 3, pixels, pixels, generator=generator),
    }


def instruction_of(inputs: dict[str, Tensor]) -> Instruction:
    """Wrap text states as the text stage would."""
    tensors = {k: inputs[k] for k in ("states", "pooled", "negative_states", "negative_pooled")}
    return Instruction(
        prompt=("",), negative=("",), rows=((),), content_rows=((),), truncated=(0,), **tensors
    )
