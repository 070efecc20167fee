"""Small text encoders for ToyWorld: published classes and layout, a vocabulary of their own.

Every word of the corpus is one token, hence one text row; other words fall back to characters and
bytes, so that no prompt fails.
"""

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import save_module
from ..errors import InputError
from ..files import atomic_path, atomic_write_json
from ..text.encoders import TextEncoders
from ..text.loading import isolated_build, second_last_gemma
from ..text.tokens import WHOLE_WORDS

# Config fields that are written: those that define the model in every version of transformers.
_SHARED_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"),
    *("max_position_embeddings", "attention_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_CLIP_FIELDS = ("num_hidden_layers", "projection_dim", "hidden_act", "layer_norm_eps")
_GEMMA_FIELDS = (
    *("num_key_value_heads", "head_dim", "hidden_activation", "rms_norm_eps", "attention_bias"),
    *("query_pre_attn_scalar", "sliding_window", "tie_word_embeddings"),
    *("final_logit_softcapping", "attn_logit_softcapping"),
)
_GEMMA_MARKS = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
}
_CLIP_MARKS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_TOKENIZER_SETTINGS = {"clean_up_tokenization_spaces": False, WHOLE_WORDS: True}
_MOST_ROWS = 512


def build_text_encoders(
    corpus: Iterable[str],
    *,
    text_length: int = 32,
    width: int = 128,
    pooled: int = 64,
    seed: int = 0,
) -> TextEncoders:
    """Build randomly initialized encoders whose vocabulary is the words of `corpus`.

    text_length: text rows L, also the CLIP length; width: D of the states, a multiple of 4;
    pooled: P of the pooled vector. The same arguments give the same weights, and the global random
    state is not used. Raises InputError for an invalid length or width.
    """
    if not 2 <= text_length <= _MOST_ROWS or width < 4 or width % 4:
        raise InputError(
            f"text_length={text_length}, width={width}: give a length of 2..{_MOST_ROWS} and a "
            "width that is a multiple of 4"
        )
    corpus = list(corpus)
    gemma_tokenizer, clip_tokenizer = _gemma_tokenizer(corpus), _clip_tokenizer(corpus)
    with isolated_build():
        torch.manual_seed(seed)
        clip = _clip(clip_tokenizer, text_length, pooled)
        gemma = second_last_gemma(_gemma_config(len(gemma_tokenizer), width))
    for encoder in (clip, gemma):
        encoder.train(False)
    return TextEncoders(clip, clip_tokenizer, gemma, gemma_tokenizer, text_length)


def write_text_folders(
    folder: str | os.PathLike, corpus: Iterable[str], **options: Any
) -> TextEncoders:
    """Build encoders (options: see `build_text_encoders`), save and return them."""
    encoders = build_text_encoders(corpus, **options)
    save_text_folders(folder, encoders)
    return encoders


def save_text_folders(folder: str | os.PathLike, encoders: TextEncoders) -> None:
    """Write `text_encoder/`, `tokenizer/` and `llm_encoder/` in the published layout.

    The language model's last layer and final norm, which are never used, are written as zeros, so
    that other software finds a complete model.
    """
    folder = Path(folder)
    clip = _settings(encoders.clip, "clip_text_model", "CLIPTextModelWithProjection", _CLIP_FIELDS)
    save_module(folder / "text_encoder", encoders.clip, clip)
    _save_tokenizer(folder / "tokenizer", encoders.clip_tokenizer)
    gemma = _settings(encoders.gemma, "gemma2", "Gemma2ForCausalLM", _GEMMA_FIELDS)
    gemma["num_hidden_layers"] = encoders.gemma.config.num_hidden_layers + 1
    gemma["rope_theta"] = _rope_theta(encoders.gemma.config)
    save_module(folder / "llm_encoder", _whole_gemma(encoders.gemma), gemma)
    _save_tokenizer(folder / "llm_encoder", encoders.gemma_tokenizer)


def _clip(tokenizer: Any, length: int, pooled: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        projection_dim=pooled,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def _gemma_config(vocabulary: int, width: int) -> Any:
    from transformers import Gemma2Config

    return Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=_MOST_ROWS,
        sliding_window=_MOST_ROWS,  # published: 4096, also more than there are rows
        initializer_range=0.05,
    )


def _gemma_tokenizer(corpus: list[str]) -> Any:
    """Start token first, padding on the left, as published."""
    vocabulary, merges = _vocabulary(corpus)
    return _tokenizer(
        [*_GEMMA_MARKS.values(), *vocabulary], merges, _GEMMA_MARKS, "<bos> $A", "left"
    )


def _clip_tokenizer(corpus: list[str]) -> Any:
    """Start and end token, padded on the right with the end token, as published.

    CLIP pools at the first end token, which has the highest id.
    """
    vocabulary, merges = _vocabulary(corpus)
    tokens = [*vocabulary, *dict.fromkeys(_CLIP_MARKS.values())]
    return _tokenizer(tokens, merges, _CLIP_MARKS, "<|startoftext|> $A <|endoftext|>", "right")


def _vocabulary(corpus: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Bytes, characters and pieces, and merges that make every word of the corpus one piece."""
    from tokenizers import Tokenizer, models, trainers

    learner = _with_splitting(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,  # a bound: merging ends when every word is one piece
        min_frequency=0,
        initial_alphabet=["\u2581", *map(chr, range(33, 127))],
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    return [*(f"<0x{byte:02X}>" for byte in range(256)), *pieces], merges


def _with_splitting(tokenizer: Any) -> Any:
    """Lower case; words start with a space mark; punctuation is separate."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _tokenizer(
    tokens: list[str],
    merges: list[tuple[str, str]],
    marks: dict[str, str],
    template: str,
    side: str,
) -> Any:
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(tokens)}
    unknown = {"unk_token": marks["unk_token"]} if "unk_token" in marks else {}
    tokenizer = _with_splitting(Tokenizer(models.BPE(ids, merges, byte_fallback=True, **unknown)))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[(mark, ids[mark]) for mark in template.split() if mark in ids],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=side, **_TOKENIZER_SETTINGS, **marks
    )


def _save_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write tokenizer files that every supported version of transformers reads.

    `save_pretrained` of newer versions names a class that older ones lack.
    """
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    with atomic_path(folder / "tokenizer.json") as path:
        plain.save(str(path))
    marks = tokenizer.special_tokens_map
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": tokenizer.padding_side,
        **_TOKENIZER_SETTINGS,
        **{name: str(mark) for name, mark in marks.items() if isinstance(mark, str)},
    }
    atomic_write_json(folder / "tokenizer_config.json", settings)


def _settings(
    model: nn.Module, model_type: str, architecture: str, fields: tuple[str, ...]
) -> dict[str, Any]:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "torch_dtype": dtype,
        **{name: getattr(model.config, name) for name in (*_SHARED_FIELDS, *fields)},
    }


def _rope_theta(config: Any) -> float:
    """Read RoPE theta, which newer transformers keep in a table."""
    return (getattr(config, "rope_parameters", None) or vars(config))["rope_theta"]


def _whole_gemma(gemma: nn.Module) -> nn.Module:
    """Complete `second_last_gemma` to the causal model, its unused end as zeros."""
    whole = nn.Module()
    whole.model = nn.Module()
    whole.model.embed_tokens = gemma.embed_tokens
    whole.model.layers = nn.ModuleList([*gemma.layers, _zeros_like(gemma.layers[0])])
    whole.model.norm = _zeros_like(gemma.layers[0].input_layernorm)
    return whole


def _zeros_like(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.data.zero_()
    return module
