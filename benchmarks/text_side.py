"""Text encoders of the published sizes, with random weights and ToyWorld's small tokenizers."""

from collections.abc import Callable

import torch
from torch import nn

from editmgt_lib.text.encoders import TextEncoders
from editmgt_lib.text.loading import second_last_gemma
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders


def published_text_encoders(
    random: Callable[[Callable[[], nn.Module], int], nn.Module],
) -> TextEncoders:
    """CLIP ViT-H's text half and Gemma-2 2B, in bfloat16; `random` fills a network from a seed.

    The small tokenizers give ids that the large vocabularies have too, and rows are padded to the
    same length whatever the text, so that the work is that of the published encoders.
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
        random(lambda: CLIPTextModelWithProjection(clip), 4).to(torch.bfloat16),
        small.clip_tokenizer,
        random(lambda: second_last_gemma(gemma), 5).to(torch.bfloat16),
        small.gemma_tokenizer,
        256,
    )
