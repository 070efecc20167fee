"""The two text encoders of EditMGT: CLIP for the pooled vector, Gemma-2 for the text rows.

As in the published code, because the checkpoint was trained that way, prompts are padded to a fixed
length, neither encoder gets an attention mask (so padding is attended to), and the rows are the
language model's second-to-last hidden states. Its last layer, final norm and vocabulary head are
not needed for these, so they are neither built nor read.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.packed import exists
from ..errors import CheckpointError, InputError
from ..offload import execution, execution_device, move_execution, offload, onloaded
from ..precision import own_precision
from .instruction import DEFAULT_NEGATIVE, Instruction
from .loading import load_clip, load_gemma, load_tokenizer, plain_defaults
from .pooled import PooledText
from .prefix import PaddingPrefix
from .tokens import TextTokens, notes, prepare_tokenizer, tokenize
from .words import place_words

Encoded = dict[str, tuple[torch.Tensor, torch.Tensor]]


class TextEncoders:
    """Both text encoders with their tokenizers; needed only until a prompt is encoded.

    clip: `CLIPTextModelWithProjection`; gemma: as `loading.second_last_gemma` builds it.
    text_length: number of text rows L (published model: 256).
    clip_length: number of CLIP tokens (published model: 77), read off the encoder.
    Several threads may encode at a time, unless the weights are offloaded.
    Raises InputError for an impossible length, CheckpointError for tokenizers of another model.
    """

    _remembered: tuple[Any, Encoded] = (None, {})  # where they were encoded, and the negatives

    def __init__(
        self,
        clip: nn.Module,
        clip_tokenizer: Any,
        gemma: nn.Module,
        gemma_tokenizer: Any,
        text_length: int = 256,
    ) -> None:
        prepare_tokenizer("CLIP", clip_tokenizer, clip.config.vocab_size)
        prepare_tokenizer("Gemma", gemma_tokenizer, gemma.config.vocab_size)
        most = gemma.config.max_position_embeddings
        if not isinstance(text_length, int) or not 2 <= text_length <= most:
            raise InputError(
                f"text_length={text_length!r} is outside 2..{most}, what the language model takes"
            )
        self.clip, self.gemma = clip, gemma
        self.clip_tokenizer, self.gemma_tokenizer = clip_tokenizer, gemma_tokenizer
        self.clip_length: int = clip.config.max_position_embeddings
        self.text_length = text_length

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        text_length: int = 256,
    ) -> "TextEncoders":
        """Load `text_encoder/`, `tokenizer/` and `llm_encoder/` of the published layout, strictly.

        folder: of a checkpoint, or its single file.

        Raises CheckpointError naming missing parts, missing or surplus keys, contradicting shapes.
        """
        folder = Path(folder)
        markers = (
            "text_encoder/config.json",
            "tokenizer/tokenizer_config.json",
            "llm_encoder/config.json",
            "llm_encoder/tokenizer_config.json",
        )
        if missing := [name for name in markers if not exists(folder / name)]:
            raise CheckpointError(
                f"{folder} lacks {', '.join(missing)}; fetch the whole checkpoint again"
            )
        return cls(
            load_clip(folder / "text_encoder", device, dtype),
            load_tokenizer(folder / "tokenizer"),
            load_gemma(folder / "llm_encoder", device, dtype),
            load_tokenizer(folder / "llm_encoder"),
            text_length,
        )

    def __repr__(self) -> str:
        device, dtype = execution(self.networks[-1])
        size = f"{self.parameter_bytes / 1e6:.1f} MB"
        return f"{type(self).__name__}(L={self.text_length}, {size}, {dtype}, {device})"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The encoders, that of the text rows last."""
        return self.clip, self.gemma

    @property
    def widths(self) -> tuple[int, int]:
        """Widths D of the states and P of the pooled vector."""
        return self.networks[-1].config.hidden_size, self.clip.config.projection_dim

    @property
    def device(self) -> torch.device:
        """Where the encoders run."""
        return execution_device(self.networks[-1])

    @property
    def parameter_bytes(self) -> int:
        """Memory of all parameters."""
        parameters = (p for network in self.networks for p in network.parameters())
        return sum(p.numel() * p.element_size() for p in parameters)

    def to(self, device: torch.device | str) -> "TextEncoders":
        """Move execution to another device, in place. Offloaded weights stay where they are."""
        for network in self.networks:
            move_execution(network, device)
        return self

    def offload(self, device: torch.device, layerwise: bool) -> None:
        """Leave the weights where they are and bring each encoder to `device` for its calls.

        layerwise: onload the language model, by far the largest network, one layer at a time. Its
        embedding table is never onloaded: it fills 1.2 GB, and a lookup gains nothing.
        """
        offload(self.clip, device)
        layers = ("layers",) if layerwise else ()
        offload(self.gemma, device, excluded=("embed_tokens",), layerwise=layers)

    def modules_to_train(self) -> list[nn.Module]:
        """The encoders, with gradients enabled for all parameters."""
        return [network.requires_grad_(True) for network in self.networks]

    def tokenize(self, prompts: str | Sequence[str]) -> tuple[torch.Tensor, ...]:
        """Ids for `encode_ids`, padded and cut: int64 [B, clip_length] and [B, L]."""
        texts = [self._tokens(prompt) for prompt in _as_prompts("prompts", prompts)]
        return tuple(token_ids(encoder) for encoder in zip(*texts, strict=True))

    def encode_ids(
        self, clip_ids: torch.Tensor, gemma_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States [B, L, D] and pooled [B, P] of tokenized prompts; differentiable."""
        return self.states(gemma_ids), self.pooled(clip_ids)

    def padding_prefix(self) -> PaddingPrefix:
        """What all prompts share, for encoding many: see `PaddingPrefix.states`.

        It is of the present weights and device: make another after training or moving the encoder.
        """
        return PaddingPrefix(self.gemma, self.gemma_tokenizer.pad_token_id, self.text_length)

    @property
    def pooled_text(self) -> PooledText:
        """CLIP alone, with its tokenizer."""
        return PooledText(self.clip, self.clip_tokenizer)

    def pooled(self, ids: torch.Tensor) -> torch.Tensor:
        """CLIP vectors [B, P] of tokenized prompts; differentiable."""
        with onloaded(self.clip):
            return self.clip(input_ids=ids.to(execution_device(self.clip))).text_embeds

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Text rows [B, L, D] of tokenized prompts; differentiable."""
        gemma = self.gemma
        with onloaded(gemma):
            # Looked up where the embedding table is, which may be on another device.
            words = gemma.embed_tokens(ids.to(gemma.embed_tokens.weight.device))
            words = words.to(execution_device(gemma))
            return gemma(inputs_embeds=words, use_cache=False).last_hidden_state

    def encode(
        self,
        prompt: str | Sequence[str],
        negative: str | Sequence[str] | None = None,
        own_negative: str = DEFAULT_NEGATIVE,
        guided: bool = True,
    ) -> Instruction:
        """Encode B prompts and as many negative prompts, or one for all.

        own_negative: the checkpoint's, used for None; no user wrote it, so nothing is noted on it.
        guided: encode the negative prompts too.
        Each distinct text is encoded by itself, so that its states do not depend on the others,
        not even in the last bit. The last negative prompts are remembered, as the same ones come
        with every call.
        """
        prompts = _as_prompts("prompt", prompt)
        negatives = _as_negatives(own_negative if negative is None else negative, len(prompts))
        tokens = {text: self._tokens(text) for text in dict.fromkeys(prompts + negatives)}
        encoded = self._encode_new(tokens, prompts, negatives if guided else ())
        rows = [tokens[text][-1] for text in prompts]
        return Instruction(
            prompt=prompts,
            negative=negatives,
            states=_joined(encoded, prompts, 0),
            pooled=_joined(encoded, prompts, 1),
            negative_states=_joined(encoded, negatives, 0) if guided else None,
            negative_pooled=_joined(encoded, negatives, 1) if guided else None,
            rows=tuple(place_words(t, one.spans) for t, one in zip(prompts, rows, strict=True)),
            content_rows=tuple(
                tuple(row for row, span in enumerate(one.spans) if span is not None) for one in rows
            ),
            truncated=tuple(one.surplus for one in rows),
            prompt_notes=tuple(
                notes("prompt", *tokens[text][::-1])
                + (() if negative is None else notes("negative prompt", *tokens[other][::-1]))
                for text, other in zip(prompts, negatives, strict=True)
            ),
        )

    def _encode_new(
        self,
        tokens: Mapping[str, tuple[TextTokens, ...]],
        prompts: Sequence[str],
        negatives: Sequence[str],
    ) -> Encoded:
        """States and pooled of all texts; remembered negatives are not encoded again."""
        place = execution(self.networks[-1])
        known = self._remembered[1] if self._remembered[0] == place else {}
        if any(p.requires_grad for network in self.networks for p in network.parameters()):
            known = {}  # weights that may change
        new = [text for text in dict.fromkeys((*prompts, *negatives)) if text not in known]
        encoded = {**known, **self._encode({text: tokens[text] for text in new})}
        if negatives:
            self._remembered = place, {text: encoded[text] for text in negatives}
        return encoded

    def _tokens(self, text: str) -> tuple[TextTokens, ...]:
        """For CLIP and Gemma; the padding sides are those the checkpoint was trained with."""
        return (
            tokenize(self.clip_tokenizer, text, self.clip_length, "right"),
            tokenize(self.gemma_tokenizer, text, self.text_length, "left"),
        )

    @torch.no_grad()
    def _encode(self, tokens: Mapping[str, tuple[TextTokens, ...]]) -> Encoded:
        """States [1, L, D] and pooled [1, P] of each text."""
        if not tokens:
            return {}
        with plain_defaults(), own_precision(self.clip), onloaded(self.clip):
            pooled = [self.pooled(token_ids([one])) for one, _ in tokens.values()]
        with plain_defaults(), own_precision(self.gemma), onloaded(self.gemma):
            states = [self.states(token_ids([one])) for _, one in tokens.values()]
        return require_finite(dict(zip(tokens, zip(states, pooled, strict=True), strict=True)))


def _as_negatives(value: str | Sequence[str], count: int) -> tuple[str, ...]:
    negatives = _as_prompts("negative", value)
    if len(negatives) not in (1, count):
        raise InputError(
            f"{len(negatives)} negative prompts for {count} prompts; give one or as many"
        )
    return negatives * (count // len(negatives))


def _joined(encoded: Encoded, texts: Sequence[str], part: int) -> torch.Tensor:
    return torch.cat([encoded[text][part] for text in texts])


def require_finite(encoded: Encoded) -> Encoded:
    """Give encoded texts back; InputError for one that overflowed."""
    for text, both in encoded.items():
        if not all(torch.isfinite(part).all() for part in both):
            raise InputError(
                f"the text encoders overflow in {both[0].dtype} on prompt {text!r}; "
                "load them in bfloat16 or float32"
            )
    return encoded


def token_ids(texts: Sequence[TextTokens]) -> torch.Tensor:
    """Ids [B, length] of texts for one encoder."""
    return torch.tensor([text.ids for text in texts], dtype=torch.int64, device="cpu")


def _as_prompts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    prompts = (value,) if isinstance(value, str) else tuple(value or ())
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{name}={value!r}: give a text or a non-empty list of texts")
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise InputError(f"{name}={prompt!r} holds halves of characters; write it as UTF-8")
    return prompts
