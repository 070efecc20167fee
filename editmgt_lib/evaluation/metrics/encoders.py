"""CLIP and DINO through transformers, float32, with the reference preprocessing.

Against the originals, with the same weights: CLIP's embeddings agree to 5e-7 of their size on a
CPU (on a GPU openai/CLIP computes in float16, this in float32); DINO v1's to 3e-5, as transformers
has 1e-12 in its norms where DINO has 1e-6; distances of structure on 224x224 to 1e-6. On other
sizes, and in DINOv2, which goes from 518 to 224 pixels, transformers interpolates positions to the
exact size and the originals by a factor a little larger. openai/CLIP also repairs captions with
ftfy, which changes nothing in plain text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...precision import no_autocast
from . import preprocessing
from .samples import Pixels

Encoded = list[np.ndarray | None]


class Encoder:
    """A frozen network that encodes views in batches.

    ways: how a picture is prepared, by name.
    """

    ways: dict[str, Callable[[Pixels], Tensor]]

    def __init__(self, model: nn.Module, batch: int = 32) -> None:
        self.model = model.eval().requires_grad_(False)
        self.batch = batch

    def encode(self, how: str, inputs: Sequence[Any]) -> Encoded:
        """One array per input; None for a caption that is too long."""
        if how not in self.ways:
            raise InputError(
                f"{type(self).__name__} has no way {how!r}; use {', '.join(self.ways)}"
            )
        pixels = [self.ways[how](picture) for picture in inputs]
        same = len({p.shape for p in pixels}) == 1
        step = self.batch if same else 1
        return [
            row
            for start in range(0, len(pixels), step)
            for row in self._run(how, torch.stack(pixels[start : start + step]))
        ]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _run(self, how: str, pixels: Tensor) -> np.ndarray:
        pixels = pixels.to(self.device)
        with torch.inference_mode(), no_autocast(self.device):
            return self._features(how, pixels).cpu().numpy()

    def _features(self, how: str, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class ClipEncoder(Encoder):
    """Projected embeddings of pictures ("crop", "squash") and of captions ("text").

    model: transformers' `CLIPModel`; tokenizer: its own.
    """

    ways = {"crop": preprocessing.clip_input, "squash": preprocessing.clip_squashed}

    def __init__(self, model: nn.Module, tokenizer: Any, batch: int = 32) -> None:
        super().__init__(model, batch)
        self.tokenizer = tokenizer
        self.length = model.config.text_config.max_position_embeddings

    def encode(self, how: str, inputs: Sequence[Any]) -> Encoded:
        return self._texts(inputs) if how == "text" else super().encode(how, inputs)

    def _features(self, how: str, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return self.model.visual_projection(pooled)

    def _texts(self, texts: Sequence[str]) -> Encoded:
        """Captions beyond the network's length are not cut: their end may be what was edited."""
        ids = [self.tokenizer(text).input_ids for text in texts]
        return [self._text(row) if len(row) <= self.length else None for row in ids]

    def _text(self, ids: list[int]) -> np.ndarray:
        rows = torch.tensor([ids], dtype=torch.int64, device=self.device)
        with torch.inference_mode(), no_autocast(self.device):
            pooled = self.model.text_model(input_ids=rows).pooler_output
            return self.model.text_projection(pooled)[0].cpu().numpy()


class DinoEncoder(Encoder):
    """The class token after the last norm ("crop", "squash"); keys of the last layer ("keys...").

    model: transformers' `ViTModel` (DINO v1) or `Dinov2Model`. The keys are [tokens, width], heads
    side by side, the class token first. "keys-pie" feeds 0..255 where 0..1 is meant and resizes
    without antialiasing, as PIE-Bench's scorer does.
    """

    ways = {
        "crop": preprocessing.dino_input,
        "squash": preprocessing.dino_squashed,
        "keys": lambda p: preprocessing.structure_input(p, antialias=True, scale=1),
        "keys-pie": lambda p: preprocessing.structure_input(p, antialias=False, scale=255),
    }

    def _features(self, how: str, pixels: Tensor) -> Tensor:
        if how in ("crop", "squash"):
            return self._forward(pixels)[:, 0]
        kept: list[Tensor] = []
        hook = self._last_key().register_forward_hook(lambda *args: kept.append(args[-1]))
        try:
            self._forward(pixels)
        finally:
            hook.remove()
        return kept[0]

    def _forward(self, pixels: Tensor) -> Tensor:
        # DINOv2 of transformers interpolates by itself and takes no such argument.
        usual = self.model.config.model_type != "vit" or pixels.shape[-2:] == (224, 224)
        more = {} if usual else {"interpolate_pos_encoding": True}
        return self.model(pixel_values=pixels, **more).last_hidden_state

    def _last_key(self) -> nn.Module:
        names = (".key", ".k_proj")  # before and since transformers 5
        return [m for name, m in self.model.named_modules() if name.endswith(names)][-1]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine similarity in float64; 0 if either vector is zero."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norms) if norms else 0.0


def self_similarity_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared difference of the cosine self-similarities of two sets of keys [N, D]."""
    return float(np.mean((_self_similarity(first) - _self_similarity(second)) ** 2))


def _self_similarity(keys: np.ndarray) -> np.ndarray:
    keys = keys.astype(np.float64)
    keys = keys / np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-8)
    return keys @ keys.T
