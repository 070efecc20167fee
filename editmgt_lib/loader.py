"""From a checkpoint's name to a ready `EditMGT`: the one place that decides device and dtype."""

from pathlib import Path

import torch
from torch import nn

from .checkpoints import (
    check_transformer_config,
    load_module,
    read_config,
    read_headers,
    read_state_dict,
    resolve,
)
from .checks import require_choice
from .errors import InputError
from .models.attention import AttentionFunction, sdpa
from .models.config import TransformerConfig
from .models.transformer import MaskedTransformer
from .models.vq import VQConfig, VQModel
from .offload import rest
from .pipeline import EditMGT
from .settings import Settings
from .text.encoders import TextTowers

OFFLOAD = ("none", "stages", "layers")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(
    name: str | Path = "toyworld",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offload: str = "none",
    text: bool = True,
    local_dir: str | Path | None = None,
    allow_download: bool = False,
    operations=nn,
    attention: AttentionFunction = sdpa,
) -> EditMGT:
    """Load a checkpoint, strictly.

    Args:
        name: `"toyworld"` (shipped), a folder in the published layout, or a hub id.
        device: a torch device, or `"auto"`: CUDA, then Apple's GPU, then the CPU.
        dtype: of transformer and text encoders: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`,
            which is bfloat16 on CUDA cards that have it, else float32. The tokenizer is float32:
            bfloat16 assigns other tokens.
        offload: `"none"`: all weights are on the device. `"stages"`: they rest on the CPU, and each
            stage brings its own network to the device for its call. `"layers"`: the language model,
            the largest, even layer by layer. Less memory, the same results, more time; one call at
            a time.
        text: load the text encoders; without them only encoded instructions can be used.
        local_dir, allow_download: see `checkpoints.resolve`; without `allow_download` the network
            is never touched.
        operations: namespace the transformer's and tokenizer's layers are built from.
        attention: `(q, k, v, key_bias) -> out` for the transformer.

    Raises:
        InputError: no such checkpoint, device, dtype or offload. CheckpointError: parts missing,
        corrupt or contradicting each other. OutOfMemory.
    """
    require_choice("offload", offload, OFFLOAD)
    folder = resolve(name, local_dir=local_dir, allow_download=allow_download)
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    home = place if offload == "none" else torch.device("cpu")
    settings = Settings.read(folder)
    transformer = load_transformer(folder / "editmgt", home, kind, operations, attention)
    vq = load_tokenizer(folder / "vqvae", home, operations)
    towers = TextTowers.from_folder(folder, home, kind, settings.text_length) if text else None
    model = EditMGT(transformer, vq, towers, settings, folder)
    if offload != "none":
        leave_resting(model, place, offload)
    return model


def leave_resting(model: EditMGT, device: torch.device, offload: str) -> None:
    """Have a model on the CPU compute on `device`, by `"stages"` or `"layers"`; see `load`."""
    rest(model.transformer, device)
    rest(model.vq, device)
    if model.towers is not None:
        model.towers.rest(device, in_turn=offload == "layers")


def load_transformer(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    operations=nn,
    attention: AttentionFunction = sdpa,
) -> MaskedTransformer:
    """The transformer of `editmgt/`; what its config leaves out is read off the tensors."""
    shapes = {name: info.shape for name, info in read_headers(folder).items()}
    values = check_transformer_config(read_config(folder), shapes, where=str(folder))
    config = TransformerConfig.from_dict(values)
    return load_module(
        lambda: MaskedTransformer(config, operations, attention),
        read_state_dict(folder),
        device=device,
        dtype=dtype,
        where=str(folder),
    )


def load_tokenizer(folder: Path, device: torch.device, operations=nn) -> VQModel:
    """The picture tokenizer of `vqvae/`, in float32."""
    config = VQConfig.from_dict(read_config(folder))
    return load_module(
        lambda: VQModel(config, operations),
        read_state_dict(folder),
        device=device,
        dtype=torch.float32,
        where=str(folder),
    )


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device a name stands for; `"auto"` takes the fastest there is."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:  # a backend not installed
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used ({reason}); try 'cpu'") from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The number format a name stands for; `"auto"` depends on the device."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
