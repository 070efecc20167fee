"""Where stage 1 starts: the base model, Meissonic, given a language model as its text side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import layout_of, load_module
from ..checkpoints.layout import MEISSONIC
from ..errors import CheckpointError
from ..loader import load_transformer
from ..models.attention import AttentionFunction
from ..models.backends import sdpa
from ..models.embeddings import Connector
from ..models.transformer import MaskedTransformer
from ..text.encoders import TextEncoders
from ..text.loading import isolated_build, load_clip, load_gemma, load_tokenizer


def start_stage_one(
    folder: Path,
    text_width: int,
    seed: int,
    attention: AttentionFunction = sdpa,
    operations: Any = nn,
) -> tuple[MaskedTransformer, tuple[str, ...]]:
    """Give the base model's transformer a linear connector for text states of `text_width`.

    folder: in Meissonic's layout, or its single file. All weights are the base model's, in float32
    on the CPU; only the connector is new, drawn as torch draws a linear layer (published code).

    Returns the transformer and the names of its new parameters. Raises CheckpointError for another
    layout, and where tensors are missing, surplus or of another shape.
    """
    if layout_of(folder) is not MEISSONIC:
        raise CheckpointError(
            f"{folder} has no base model for stage 1, which lies in {MEISSONIC.transformer}/; "
            "stages 2 and 3 start from an EditMGT checkpoint"
        )
    place = folder / MEISSONIC.transformer
    base = load_transformer(place, torch.device("cpu"), torch.float32, operations)
    if base.connector is not None:
        raise CheckpointError(f"{place} has a connector already; start stage 2 from it instead")
    config = replace(base.config, connector_type="linear", joint_attention_dim=text_width)
    with isolated_build():
        torch.manual_seed(seed)
        fresh = Connector(text_width, config.width, nn).state_dict(prefix="connector.")
    transformer = load_module(
        lambda: MaskedTransformer(config, operations, attention),
        base.state_dict() | fresh,
        dtype=torch.float32,
        where=str(place),
    )
    return transformer, tuple(fresh)


def load_stage_one_text(
    folder: Path,
    language_model: Path,
    text_length: int = 256,
    dtype: torch.dtype = torch.float32,
) -> TextEncoders:
    """Load the base model's CLIP and a language model's folder as EditMGT's text side.

    language_model: Gemma-2's weights and tokenizer, as in a checkpoint's `llm_encoder/`.
    """
    device = torch.device("cpu")
    return TextEncoders(
        load_clip(folder / "text_encoder", device, dtype),
        load_tokenizer(folder / "tokenizer"),
        load_gemma(language_model, device, dtype),
        load_tokenizer(language_model),
        text_length,
    )
