"""From a checkpoint's name to a ready `EditMGT`; the only place that picks device and dtype."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from .checkpoints import (
    check_mask_token,
    layout_of,
    load_module,
    read_config,
    read_headers,
    read_state_dict,
    resolve,
)
from .checks import require_choice
from .choices import DTYPES, OFFLOAD
from .errors import CheckpointError, InputError, first_line
from .lora import Lora, Stack, attach, merged, read_stack
from .models.attention import AttentionFunction
from .models.backends import choose_attention, sdpa
from .models.config import FLOAT32_WEIGHTS, TransformerConfig, complete_config
from .models.transformer import MaskedTransformer
from .models.vq import VQConfig, VQModel
from .offload import offload as offload_network
from .pipeline import EditMGT
from .settings import Settings
from .text.clip import load_text_encoders
from .text.encoders import TextEncoders

_DTYPES = {name: getattr(torch, name) for name in DTYPES if name != "auto"}


def load(
    name: str | Path = "toyworld",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offload: str = "none",
    text: bool = True,
    local_dir: str | Path | None = None,
    allow_download: bool = False,
    attention: str = "auto",
    tf32: bool | None = False,
    lora: Sequence[str | Path | tuple[str | Path | Lora, float]] = (),
) -> EditMGT:
    """Load a checkpoint, strictly.

    Args:
        name: `"toyworld"` (shipped), a folder in the published layout or in Meissonic's (text to
            image), a single file that `checkpoints.pack` wrote (8-bit weights are widened to
            `dtype`), or a hub id.
        device: a torch device, or `"auto"`: the first available of CUDA (or ROCm), XPU (Intel),
            MPS (Apple), CPU.
        dtype: of transformer and text encoders: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`,
            which is bfloat16 on devices with matrix units for it, else float32. The tokenizer
            stays in float32, since bfloat16 assigns other tokens.
        offload: `"none"` keeps all weights on the device. `"stages"` keeps them on the CPU (for
            CUDA in pinned memory) and onloads each stage's network for its call. `"layers"` also
            onloads the language model, the largest part, layer by layer. Less memory, more time,
            the same results; one call at a time.
        text: load the text encoders; without them only encoded instructions can be used.
        local_dir, allow_download: see `checkpoints.resolve`; the network is used only with
            `allow_download`.
        attention: the transformer's back end: `"sdpa"` (PyTorch's kernel), `"flash"` (needs no mask
            for a strength other than 1), `"xformers"`, `"math"`, or `"auto"`, the fastest one
            measured on this kind of device.
        tf32: whether CUDA may round the factors of float32 products and convolutions to 11 bits
            while the model computes: all of the tokenizer, the codebook projection, and the rest
            with `dtype="float32"`. Faster, but a token may differ. None: as the process has it.
        lora: LoRA files, alone or with a strength of -2..2: `[("hats.safetensors", 0.8)]`.

    Raises:
        InputError: no such checkpoint, device, dtype, offload mode, back end or LoRA file.
        CheckpointError: parts are missing, corrupt or contradict each other, or a LoRA does not
            fit. OutOfMemory.
    """
    require_choice("offload", offload, OFFLOAD)
    require_choice("tf32", tf32, (False, True, None))
    folder = resolve(name, local_dir=local_dir, allow_download=allow_download)
    execution = choose_device(device)
    precision = choose_dtype(dtype, execution)
    storage = execution if offload == "none" else torch.device("cpu")
    settings = Settings.read(folder)
    stack = read_stack(lora)
    transformer = load_transformer(
        folder / layout_of(folder).transformer,
        storage,
        precision,
        attention=choose_attention(attention, execution, precision),
        stack=stack,
    )
    check_mask_token(folder, transformer.config.mask_token_id)
    vq = load_tokenizer(folder / "vqvae", storage)
    encoders = None
    if text:
        encoders = load_text_encoders(folder, storage, precision, settings.text_length)
        check_text_fits(transformer.config, encoders, str(folder))
    model = EditMGT(transformer, vq, encoders, settings, folder)
    set_tf32(model, tf32)
    if offload != "none":
        offload_model(model, execution, offload)
    return model


def set_tf32(model: EditMGT, allowed: bool | None) -> None:
    """Let later calls of a model compute so; see `load`."""
    encoders = model.text_encoders.networks if model.text_encoders is not None else ()
    for network in (model.transformer, model.vq, *encoders):
        network.tf32 = allowed


def offload_model(model: EditMGT, device: torch.device, mode: str) -> None:
    """Execute a model on `device` with its weights on the CPU; for modes see `load`."""
    offload_network(model.transformer, device)
    offload_network(model.vq, device)
    if model.text_encoders is not None:
        model.text_encoders.offload(device, layerwise=mode == "layers")


def load_transformer(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    operations=nn,
    attention: AttentionFunction = sdpa,
    widen: bool = True,
    stack: Stack = (),
) -> MaskedTransformer:
    """Load a transformer's folder, with LoRAs; what its config leaves out is read off the tensors.

    LoRAs are merged before the weights are cast to `dtype`, those of scope `reference` are
    attached. widen: see `load_module`.
    """
    shapes = {name: info.shape for name, info in read_headers(folder).items()}
    values = complete_config(read_config(folder), shapes, where=str(folder))
    config = TransformerConfig.from_dict(values, where=str(folder / "config.json"))
    shared = [(lora, strength) for lora, strength in stack if lora.scope == "both"]
    network = load_module(
        lambda: MaskedTransformer(config, operations, attention),
        merged(read_state_dict(folder), shared),
        device=device,
        dtype=dtype,
        float32=FLOAT32_WEIGHTS,
        widen=widen,
        where=str(folder),
    )
    for lora, strength in stack:
        if lora.scope == "reference":
            attach(network, lora, strength)
    return network


def check_text_fits(config: TransformerConfig, encoders: TextEncoders, where: str) -> None:
    """Raise CheckpointError if text encoders give other widths than a transformer takes."""
    linear = config.connector_type == "linear"
    wanted = config.joint_attention_dim if linear else config.width, config.pooled_projection_dim
    if encoders.widths != wanted:
        advice = "use the parts of one checkpoint"
        if linear and len(encoders.networks) == 1:
            advice = "an EditMGT transformer belongs in editmgt/, with llm_encoder/ beside it"
        raise CheckpointError(
            f"{where}: the transformer takes text states and a pooled vector of widths {wanted}, "
            f"the text encoders give {encoders.widths}; {advice}"
        )


def load_tokenizer(folder: Path, device: torch.device, operations=nn) -> VQModel:
    """Load the picture tokenizer in `vqvae/`, in float32."""
    config = VQConfig.from_dict(read_config(folder), where=str(folder / "config.json"))
    return load_module(
        lambda: VQModel(config, operations),
        read_state_dict(folder),
        device=device,
        dtype=torch.float32,
        where=str(folder),
    )


def choose_device(device: str | torch.device) -> torch.device:
    """Resolve a device name; for `"auto"` see `load`. InputError if it cannot be used."""
    if str(device) == "auto":
        available = (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps))
        return torch.device(next((name for name, api in available if api.is_available()), "cpu"))
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device is {device!r}; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    try:
        return torch.empty(0, dtype=torch.uint8, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:  # a backend not installed
        reason = first_line(error).partition(". ")[0]  # what follows lists all of torch's
        raise InputError(f"device {str(device)!r} cannot be used ({reason}); try 'cpu'") from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Resolve a dtype name; `"auto"` depends on the device."""
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    require_choice("dtype", dtype, DTYPES)
    return _DTYPES[dtype]


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether this very device multiplies bfloat16 in hardware.

    torch's own test asks about the current device and counts emulation, which is slower than
    float32. float16 is no alternative: the hidden states of Gemma-2 exceed its range.
    """
    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "xpu":  # the matrix units of Arc and Data Center Max; iGPUs may lack them
        properties = torch.xpu.get_device_properties(device)
        return getattr(properties, "has_subgroup_matrix_multiply_accumulate", False)
    # An M1 emulates bfloat16, and torch does not tell chips apart. Few CPUs have units for it; on
    # the others it is many times slower than float32.
    return False
