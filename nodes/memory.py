"""ComfyUI's memory manager, layers, number formats and attention: all contact with them is here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..editmgt_lib.errors import OutOfMemory
from ..editmgt_lib.models.attention import QueryGroup

FORMATS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
# float16 is computed in only where a user asked for it: activations come close to its end.
COMPUTE = [torch.bfloat16, torch.float32]
check_cancelled = management.throw_exception_if_processing_interrupted
resting_place = management.intermediate_device


class Precision(NamedTuple):
    """Number formats of the transformer: to compute in, and to keep the large weights in."""

    compute: torch.dtype
    storage: torch.dtype


def precision(choice: str, device: torch.device, parameters: int) -> Precision:
    """ComfyUI's decision for this device, command line and free memory; or what the user chose."""
    storage = FORMATS.get(choice) or management.unet_dtype(
        device=device, model_params=parameters, supported_dtypes=COMPUTE
    )
    cast = management.unet_manual_cast(storage, device, supported_dtypes=COMPUTE)
    return Precision(cast or storage, storage)


def text_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Number format of the text encoders. Never float16, in which Gemma-2 overflows."""
    if choice == "fp32":
        return torch.float32
    small = choice in ("bf16", "fp8") or management.should_use_bf16(device)
    return torch.bfloat16 if small else torch.float32


class Layers(comfy.ops.manual_cast):
    """ComfyUI's layers, which bring weights over and cast them as they are used.

    Linear and Embedding bring their own way of reading weights, torch's: with dynamic memory
    ComfyUI's make no parameters until weights arrive, which a strict loader takes for missing.
    """

    class Linear(comfy.ops.manual_cast.Linear):
        """A linear layer with parameters from the start."""

        _load_from_state_dict = nn.Module._load_from_state_dict

    class Embedding(comfy.ops.manual_cast.Embedding):
        """A table with parameters from the start."""

        _load_from_state_dict = nn.Module._load_from_state_dict

    class Conv2d(comfy.ops.manual_cast.Conv2d):
        """A convolution at which a run can be cancelled."""

        def forward(self, x: Tensor) -> Tensor:
            """As the base."""
            check_cancelled()
            return super().forward(x)


def attention(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """The attention the user started ComfyUI with, [B, heads, L, d]; a run can be cancelled here.

    With a bias over the keys it is PyTorch's where the chosen one is not known to add it (sage
    drops it silently, flash complains at every call).
    """
    check_cancelled()
    parts = [_attention(q[:, :, group.rows], k, v, group.key_bias) for group in groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attention(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None) -> Tensor:
    chosen, mask = comfy_attention.optimized_attention, None
    if key_bias is not None:
        mask = key_bias.to(q.dtype)
        if chosen not in (
            comfy_attention.attention_xformers,
            comfy_attention.attention_split,
            comfy_attention.attention_sub_quad,
        ):
            chosen = comfy_attention.attention_pytorch
    heads = q.shape[1]
    out = chosen(q, k, v, heads, mask=mask, skip_reshape=True)  # [B, L, heads * d]
    return out.unflatten(-1, (heads, -1)).transpose(1, 2)


def shrink(blocks: list[nn.Module], storage: torch.dtype) -> None:
    """Keep the linear weights of the blocks, nearly all there are, in a smaller format."""
    for block in blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear) and layer.weight.dtype != storage:
                layer.weight = nn.Parameter(layer.weight.to(storage), requires_grad=False)


class Whole(nn.Module):
    """A network of foreign layers in a module of its own: the manager writes attributes on it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(lambda *_: check_cancelled())


@dataclass(frozen=True, eq=False, repr=False)
class Managed:
    """A network in the hands of ComfyUI's memory manager.

    whole: it has layers that cannot cast, so it must be loaded in one piece or not at all.
    """

    patcher: comfy.model_patcher.ModelPatcher
    whole: bool


def manage(
    network: nn.Module, load_device: torch.device, offload_device: torch.device, dtype: torch.dtype
) -> Managed:
    """Hand a network over; `dtype` is what it computes in."""
    if not _casts(network):
        network = Whole(network)
        patcher = comfy.model_patcher.ModelPatcher(network, load_device, offload_device)
        return Managed(patcher, True)
    network.execution = (load_device, dtype)
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return Managed(kind(network, load_device, offload_device), False)


def _casts(network: nn.Module) -> bool:
    """Whether every parameter belongs to a layer that brings it over by itself."""
    return all(
        hasattr(layer, "comfy_cast_weights")
        for layer in network.modules()
        if next(layer.parameters(recurse=False), None) is not None
    )


@contextmanager
def on_device(*networks: Managed, working_memory: int = 0) -> Iterator[None]:
    """Have networks where they compute; the manager may move them as soon as others need room."""
    check_cancelled()
    try:
        management.load_models_gpu(
            [network.patcher for network in networks],
            memory_required=working_memory,
            force_full_load=any(network.whole for network in networks),
        )
        yield
    except OutOfMemory:
        management.unload_all_models()  # what ComfyUI does for the error of its own
        raise
