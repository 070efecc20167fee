"""CLIP alone, for pooled vectors: what a token cache keeps of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..offload import execution_device, onloaded
from ..precision import own_precision
from .loading import load_clip, load_tokenizer, plain_defaults
from .tokens import prepare_tokenizer, tokenize


class PooledText:
    """Encodes prompts to pooled vectors.

    clip: `CLIPTextModelWithProjection`. Raises CheckpointError for a tokenizer of another model.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any) -> None:
        prepare_tokenizer("CLIP", tokenizer, clip.config.vocab_size)
        self.clip, self.tokenizer = clip, tokenizer
        self.length: int = clip.config.max_position_embeddings

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> "PooledText":
        """Load `text_encoder/` and `tokenizer/` of the published layout, in float32."""
        clip = load_clip(folder / "text_encoder", device, torch.float32)
        return cls(clip, load_tokenizer(folder / "tokenizer"))

    @property
    def width(self) -> int:
        """Features of a pooled vector."""
        return self.clip.config.projection_dim

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Pooled vectors float32 [B, P], each encoded by itself."""
        device, pooled = execution_device(self.clip), []
        with plain_defaults(), own_precision(self.clip), onloaded(self.clip):
            for prompt in prompts:
                tokens = tokenize(self.tokenizer, prompt, self.length, "right")
                ids = torch.tensor([tokens.ids], dtype=torch.int64, device=device)
                pooled.append(self.clip(input_ids=ids).text_embeds)
        return torch.cat(pooled).float()
