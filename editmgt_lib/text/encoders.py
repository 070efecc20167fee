"""The two text encoders of EditMGT: CLIP for the pooled vector, Gemma-2 for the text rows.

Behaviour of the published code that is kept, because the checkpoint was trained with it: prompts
are padded to a fixed length, no attention mask is given to either encoder (padding is attended to),
and the rows are the language model's second-last hidden states. These need neither its last layer
nor its final norm nor its vocabulary head, so none of the three is built or read.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, InputError
from ..offload import execution, execution_device, move_execution, offload, onloaded
from .instruction import DEFAULT_NEGATIVE, Instruction, WordRows, place_words
from .loading import load_clip, load_gemma, load_tokenizer


class TextEncoders:
    """Both text encoders with their tokenizers; needed only until a prompt is encoded.

    clip: `CLIPTextModelWithProjection`; gemma: what `text_loading.second_last_gemma` builds
    text_length: number of text rows L (256 in the published model)
    clip_length: number of CLIP tokens (77 in the published model), read off the encoder
    Raises InputError for an impossible length, CheckpointError for tokenizers of another model.
    """

    def __init__(
        self,
        clip: nn.Module,
        clip_tokenizer: Any,
        gemma: nn.Module,
        gemma_tokenizer: Any,
        text_length: int = 256,
    ) -> None:
        _check_tokenizer("CLIP", clip, clip_tokenizer)
        _check_tokenizer("Gemma", gemma, gemma_tokenizer)
        most = gemma.config.max_position_embeddings
        if not isinstance(text_length, int) or not 2 <= text_length <= most:
            raise InputError(
                f"text_length={text_length!r} is outside 2..{most}, what the language model takes"
            )
        self.clip: nn.Module | None = clip
        self.gemma: nn.Module | None = gemma
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
        """Read `text_encoder/`, `tokenizer/` and `llm_encoder/` of the published layout.

        Weights come from safetensors only and load strictly; parameters do not ask for gradients.
        Raises CheckpointError naming missing parts, missing or surplus keys, contradicting shapes.
        """
        folder = Path(folder)
        markers = (
            "text_encoder/config.json",
            "tokenizer/tokenizer_config.json",
            "llm_encoder/config.json",
            "llm_encoder/tokenizer_config.json",
        )
        if missing := [name for name in markers if not (folder / name).is_file()]:
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
        if self.clip is None:
            return f"TextEncoders(L={self.text_length}, freed)"
        device, dtype = execution(self.gemma)
        size = f"{self.parameter_bytes / 1e6:.1f} MB"
        return f"TextEncoders(L={self.text_length}, {size}, {dtype}, {device})"

    @property
    def device(self) -> torch.device:
        """Where the encoders compute. Raises InputError once freed."""
        return execution_device(self._present()[1])

    @property
    def parameter_bytes(self) -> int:
        """Memory of all parameters in bytes, 0 once freed."""
        models = () if self.clip is None else self._present()
        return sum(p.numel() * p.element_size() for model in models for p in model.parameters())

    def to(self, device: torch.device | str) -> "TextEncoders":
        """Move execution to another device, in place. Offloaded weights stay where they are."""
        for model in self._present():
            move_execution(model, device)
        return self

    def offload(self, device: torch.device, layerwise: bool) -> None:
        """Leave the weights where they are and bring each encoder to `device` for its calls.

        layerwise: onload the language model, by far the largest network, one layer at a time. Its
        embedding table is never onloaded: it fills 1.2 GB, and a lookup gains nothing.
        """
        clip, gemma = self._present()
        offload(clip, device)
        layers = ("layers",) if layerwise else ()
        offload(gemma, device, excluded=("embed_tokens",), layerwise=layers)

    def free(self) -> None:
        """Drop both encoders; `tokenize` and `words` keep working."""
        self.clip = self.gemma = None

    def modules_to_train(self) -> list[nn.Module]:
        """Both encoders, with gradients switched on for all their parameters."""
        return [model.requires_grad_(True) for model in self._present()]

    def tokenize(self, prompts: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids for `encode_ids`, padded and cut: int64 [B, clip_length] and [B, L]."""
        prompts = list(_as_prompts("prompts", prompts))
        clip = self.clip_tokenizer(prompts, **_fixed(self.clip_length), return_tensors="pt")
        gemma = self.gemma_tokenizer(prompts, **_fixed(self.text_length), return_tensors="pt")
        return clip.input_ids, gemma.input_ids

    def encode_ids(
        self, clip_ids: torch.Tensor, gemma_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States [B, L, D] and pooled [B, P] of tokenized prompts; differentiable."""
        return self._states(gemma_ids), self._pooled(clip_ids)

    def _pooled(self, ids: torch.Tensor) -> torch.Tensor:
        clip = self._present()[0]
        with onloaded(clip):
            return clip(input_ids=ids.to(execution_device(clip))).text_embeds

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        gemma = self._present()[1]
        with onloaded(gemma):
            # Looked up where the table of words is, which may be elsewhere than the layers.
            words = gemma.embed_tokens(ids.to(gemma.embed_tokens.weight.device))
            words = words.to(execution_device(gemma))
            return gemma(inputs_embeds=words, use_cache=False).last_hidden_state

    def encode(
        self, prompt: str | Sequence[str], negative: str | Sequence[str] = DEFAULT_NEGATIVE
    ) -> Instruction:
        """Encode B prompts and as many negative prompts (a single one serves all).

        Every different text passes the encoders alone, so that the states of one prompt do not
        depend on the others, not even in the last bit. Warns about a prompt whose end is cut off.
        """
        prompts, negatives = _as_prompts("prompt", prompt), _as_prompts("negative", negative)
        if len(negatives) not in (1, len(prompts)):
            raise InputError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one or as many"
            )
        negatives = negatives * (len(prompts) // len(negatives))
        texts = tuple(dict.fromkeys(prompts + negatives))
        for text in texts:
            if text != DEFAULT_NEGATIVE:
                self._warn_if_cut(text)
        encoded = self._encode_texts(texts)
        offsets = [self._offsets(text) for text in prompts]
        return Instruction(
            prompt=prompts,
            negative=negatives,
            states=torch.cat([encoded[text][0] for text in prompts]),
            pooled=torch.cat([encoded[text][1] for text in prompts]),
            negative_states=torch.cat([encoded[text][0] for text in negatives]),
            negative_pooled=torch.cat([encoded[text][1] for text in negatives]),
            rows=tuple(map(place_words, prompts, offsets)),
            content_rows=tuple(
                tuple(row for row, span in enumerate(spans) if span is not None)
                for spans in offsets
            ),
            truncated=tuple(
                _surplus(self.gemma_tokenizer, text, self.text_length) for text in prompts
            ),
        )

    def words(self, prompt: str) -> tuple[WordRows, ...]:
        """The words of a prompt and the text rows they will occupy, without encoding it."""
        return place_words(prompt, self._offsets(prompt))

    def _present(self) -> tuple[nn.Module, nn.Module]:
        if self.clip is None or self.gemma is None:
            raise InputError("the text encoders were freed; load them again to encode a prompt")
        return self.clip, self.gemma

    def _warn_if_cut(self, text: str) -> None:
        for name, tokenizer, length in (
            ("text rows", self.gemma_tokenizer, self.text_length),
            ("CLIP tokens", self.clip_tokenizer, self.clip_length),
        ):
            if surplus := _surplus(tokenizer, text, length):
                warnings.warn(
                    f"prompt {text!r} is {surplus} tokens longer than the {length} {name}; "
                    "its end is ignored there",
                    stacklevel=3,
                )

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """States [1, L, D] and pooled [1, P] of each text."""
        clip, gemma = self._present()
        ids = [self.tokenize(text) for text in texts]
        with onloaded(clip):
            pooled = [self._pooled(clip_ids) for clip_ids, _ in ids]
        with onloaded(gemma):
            states = [self._states(gemma_ids) for _, gemma_ids in ids]
        encoded = dict(zip(texts, zip(states, pooled, strict=True), strict=True))
        for text, both in encoded.items():
            if not all(torch.isfinite(part).all() for part in both):
                raise InputError(
                    f"the text encoders overflow in {both[0].dtype} on prompt {text!r}; "
                    "load them in bfloat16 or float32"
                )
        return encoded

    def _offsets(self, text: str) -> list[tuple[int, int] | None]:
        """Per text row the characters it carries, None for padding and marks.

        The published code looks words up in the CLIP tokenizer and so points at padding; these are
        positions in the tokenizer whose states are used.
        """
        fast = self.gemma_tokenizer.is_fast
        batch = self.gemma_tokenizer(
            text,
            **_fixed(self.text_length),
            return_special_tokens_mask=True,
            return_offsets_mapping=fast,
        )
        real = zip(batch["special_tokens_mask"], batch["attention_mask"], strict=True)
        content = [bool(attended) and not special for special, attended in real]
        if fast:
            spans = batch["offset_mapping"]
        else:
            spans = _decoded_offsets(self.gemma_tokenizer, batch["input_ids"], content)
        return [tuple(span) if on else None for on, span in zip(content, spans, strict=True)]


def _check_tokenizer(name: str, model: nn.Module, tokenizer: Any) -> None:
    if len(tokenizer) > model.config.vocab_size or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{name} tokenizer has {len(tokenizer)} tokens and padding token "
            f"{tokenizer.pad_token!r}; the encoder beside it has {model.config.vocab_size} tokens "
            "and needs a padding token. Take both from the same checkpoint"
        )


def _fixed(length: int) -> dict[str, Any]:
    """Tokenizer options of the published code: pad and cut to one length."""
    return {"truncation": True, "padding": "max_length", "max_length": length}


def _as_prompts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    prompts = (value,) if isinstance(value, str) else tuple(value or ())
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{name}={value!r}: give a text or a non-empty list of texts")
    return prompts


def _surplus(tokenizer: Any, text: str, length: int) -> int:
    """How many tokens of the text do not fit."""
    return max(0, len(tokenizer(text, verbose=False).input_ids) - length)


def _decoded_offsets(tokenizer: Any, ids: list[int], content: list[bool]) -> list[tuple[int, int]]:
    """Offsets for a tokenizer that reports none: how far the text decodes up to each row."""
    spans: list[tuple[int, int]] = []
    kept: list[int] = []
    end = 0
    for token, real in zip(ids, content, strict=True):
        start = end
        if real:
            kept.append(token)
            end = len(tokenizer.decode(kept, clean_up_tokenization_spaces=False))
        spans.append((start, end))
    return spans
