"""Load the text encoders of a checkpoint folder, without the parts that are never used."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from ..checkpoints import load_module, read_config, read_state_dict
from ..checkpoints.packed import on_disk
from ..checkpoints.unused import GEMMA_PREFIX, UNUSED_CLIP, unused_gemma
from ..errors import CheckpointError

_DEFAULT_DTYPE = Lock()


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Run code of transformers with torch's own defaults: float32, on the CPU.

    transformers before 5 makes masks and constants in the default dtype and on the default device,
    also in a forward pass. The dtype belongs to the process: one thread at a time.
    """
    with _DEFAULT_DTYPE:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def isolated_build() -> Iterator[None]:
    """Build float32 networks on the CPU, untouched by torch's global state and not changing it."""
    with plain_defaults(), torch.random.fork_rng(devices=[]):
        yield


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a local folder, never running code from it. Raises CheckpointError."""
    from transformers import AutoTokenizer

    try:
        with on_disk(folder) as place:
            return AutoTokenizer.from_pretrained(
                str(place), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers and tokenizers raise many kinds for a broken folder
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read: {error}; fetch it again"
        ) from error


def load_clip(
    folder: Path, device: torch.device | str, dtype: torch.dtype, widen: bool = True
) -> nn.Module:
    """`CLIPTextModelWithProjection` from config.json and safetensors, of a whole CLIP too.

    widen: see `load_module`. Raises CheckpointError.
    """
    from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModelWithProjection

    config = _read_config(folder, CLIPTextConfig, CLIPConfig)
    if isinstance(config, CLIPConfig):
        config.text_config.projection_dim = config.projection_dim  # where the whole CLIP has it
        config = config.text_config
    return load_module(
        partial(CLIPTextModelWithProjection, config),
        read_state_dict(folder),
        device=device,
        dtype=dtype,
        widen=widen,
        ignore=UNUSED_CLIP,
        fill=partial(_fill, CLIPTextModelWithProjection, config),
        where=str(folder),
    )


def load_gemma(
    folder: Path, device: torch.device | str, dtype: torch.dtype, widen: bool = True
) -> nn.Module:
    """`second_last_gemma` from config.json and safetensors.

    widen: see `load_module`. Raises CheckpointError.
    """
    from transformers import Gemma2Config

    whole = _read_config(folder, Gemma2Config)
    config = _without_last_layer(whole)
    state = read_state_dict(folder)
    return load_module(
        partial(_headless, config),
        {name.removeprefix(GEMMA_PREFIX): tensor for name, tensor in state.items()},
        device=device,
        dtype=dtype,
        widen=widen,
        ignore=unused_gemma(whole.num_hidden_layers),
        fill=partial(_fill, _headless, config),
        where=str(folder),
    )


def second_last_gemma(config: Any) -> nn.Module:
    """A `Gemma2Model` whose last_hidden_state equals hidden_states[-2] of `Gemma2ForCausalLM`.

    config: the `Gemma2Config` of the whole model, N layers; the result has N-1 and no final norm.
    """
    return _headless(_without_last_layer(config))


def _without_last_layer(config: Any) -> Any:
    if config.num_hidden_layers < 2:
        raise CheckpointError(
            f"Gemma config: num_hidden_layers is {config.num_hidden_layers}; its second-last "
            "states need at least 2"
        )
    return _with_layers(config, config.num_hidden_layers - 1)


def _with_layers(config: Any, layers: int, **changes: Any) -> Any:
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):  # one entry per layer, in newer transformers only
        config.layer_types = list(config.layer_types)[:layers]
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def _headless(config: Any) -> nn.Module:
    """Gemma-2 with all layers of `config` and no final norm.

    Attention runs as plain matrix products: the fused kernel knows no soft cap on the logits, and
    some versions of transformers silently leave the cap out with it.
    """
    from transformers import Gemma2Model

    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    model = Gemma2Model(config)
    model.norm = nn.Identity()
    return model


def _read_config(folder: Path, *kinds: type) -> Any:
    """The config of a folder, of the kind that its `model_type` names."""
    values = read_config(folder)
    found = values.get("model_type")
    path = folder / "config.json"
    kind = next((kind for kind in kinds if kind.model_type == found), None)
    if kind is None:
        expected = " or ".join(repr(kind.model_type) for kind in kinds)
        raise CheckpointError(f"{path}: model_type is {found!r}, expected {expected}")
    try:
        return kind.from_dict(values)
    except Exception as error:  # validation errors differ between versions of transformers
        raise CheckpointError(f"{path} describes no {kind.model_type} model: {error}") from error


def _fill(build: Callable[[Any], nn.Module], config: Any, model: nn.Module) -> None:
    """Fill tensors that no file holds: rotary frequencies, scales, position ids.

    They follow from the config alone, so they are copied from a model without layers and words.
    """
    with isolated_build():
        twin = build(_with_layers(config, 0, vocab_size=1, pad_token_id=None))
    for name, module in model.named_modules():
        # Not only buffers: some versions keep a plain copy of the frequencies beside them.
        for key, value in [*module._buffers.items(), *vars(module).items()]:
            if isinstance(value, torch.Tensor) and value.is_meta:
                source = getattr(twin.get_submodule(name), key)
                if key in module._buffers:
                    module.register_buffer(key, source, persistent=False)
                else:
                    setattr(module, key, source)
