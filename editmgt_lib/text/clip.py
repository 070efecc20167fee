"""CLIP alone as the text side: Meissonic, the base model EditMGT was trained from, has no other."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.layout import layout_of
from ..checkpoints.packed import exists
from ..errors import CheckpointError
from ..offload import execution_device, offload, onloaded
from ..precision import own_precision
from .encoders import Encoded, TextEncoders, require_finite, token_ids
from .loading import load_clip, load_tokenizer, plain_defaults
from .tokens import TextTokens, prepare_tokenizer, tokenize


class ClipEncoder(TextEncoders):
    """CLIP for both: its second-to-last states, without the final norm, are the text rows.

    clip: `CLIPTextModelWithProjection`. As in the published code there is no attention mask, so the
    padding after a prompt is attended to. Raises CheckpointError for a tokenizer of another model.
    """

    def __init__(self, clip: nn.Module, clip_tokenizer: Any) -> None:
        prepare_tokenizer("CLIP", clip_tokenizer, clip.config.vocab_size)
        self.clip, self.clip_tokenizer = clip, clip_tokenizer
        self.clip_length = self.text_length = clip.config.max_position_embeddings

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        text_length: int = 77,
    ) -> "ClipEncoder":
        """Load `text_encoder/` and `tokenizer/` of a checkpoint, or its single file, strictly.

        Raises CheckpointError as `TextEncoders.from_folder`, and for another `text_length` than
        the encoder's.
        """
        folder = Path(folder)
        markers = ("text_encoder/config.json", "tokenizer/tokenizer_config.json")
        if missing := [name for name in markers if not exists(folder / name)]:
            raise CheckpointError(
                f"{folder} lacks {', '.join(missing)}; fetch the whole checkpoint again"
            )
        clip = load_clip(folder / "text_encoder", device, dtype)
        encoder = cls(clip, load_tokenizer(folder / "tokenizer"))
        if encoder.text_length != text_length:
            raise CheckpointError(
                f"{folder}: text_length is {text_length}, but its CLIP has {encoder.text_length} "
                "positions; state that number in editmgt.json"
            )
        return encoder

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """CLIP."""
        return (self.clip,)

    def offload(self, device: torch.device, layerwise: bool) -> None:
        """Leave the weights where they are and bring the encoder to `device` for its calls."""
        offload(self.clip, device)

    def encode_ids(self, clip_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States [B, L, D] and pooled [B, P] of tokenized prompts; differentiable."""
        with onloaded(self.clip):
            ids = clip_ids.to(execution_device(self.clip))
            result = self.clip(input_ids=ids, output_hidden_states=True)
        return result.hidden_states[-2], result.text_embeds

    def _tokens(self, text: str) -> tuple[TextTokens, ...]:
        return (tokenize(self.clip_tokenizer, text, self.clip_length, "right"),)

    @torch.no_grad()
    def _encode(self, tokens: Mapping[str, tuple[TextTokens, ...]]) -> Encoded:
        if not tokens:
            return {}
        with plain_defaults(), own_precision(self.clip), onloaded(self.clip):
            return require_finite(
                {text: self.encode_ids(token_ids(one)) for text, one in tokens.items()}
            )


def load_text_encoders(
    folder: Path, device: torch.device | str, dtype: torch.dtype, text_length: int
) -> TextEncoders:
    """Load a checkpoint's text encoders, of the kind its layout has."""
    kind = TextEncoders if layout_of(folder).has_language_model else ClipEncoder
    return kind.from_folder(folder, device, dtype, text_length)
