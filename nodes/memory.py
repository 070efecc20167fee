"""The boundary to ComfyUI's memory manager, layers, dtypes and attention."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import comfy.ldm.modules.attention as comfy_attention
import comfy.lora
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..editmgt_lib.errors import CheckpointError, OutOfMemory
from ..editmgt_lib.lora import Lora, LoraLayer, adaptable, adapter_of
from ..editmgt_lib.models.attention import QueryGroup
from .eight_bits import in_8_bits, widened

FORMATS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
# float16 only on request: activations come close to its limit.
COMPUTE = [torch.bfloat16, torch.float32]
check_cancelled = management.throw_exception_if_processing_interrupted
resting_place = management.intermediate_device


def dtype_name(dtype: torch.dtype) -> str:
    """The loader's name of it, or torch's for others, which the command line can force."""
    names = {kind: name for name, kind in FORMATS.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


class Precision(NamedTuple):
    """The transformer's dtypes: to compute in, and to store the large weights in."""

    compute: torch.dtype
    storage: torch.dtype


def precision(choice: str, device: torch.device, parameters: int) -> Precision:
    """The user's choice, or ComfyUI's for this device, command line and free memory."""
    storage = FORMATS.get(choice) or management.unet_dtype(
        device=device, model_params=parameters, supported_dtypes=COMPUTE
    )
    cast = management.unet_manual_cast(storage, device, supported_dtypes=COMPUTE)
    return Precision(cast or storage, storage)


def text_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Dtype of the text encoders; never float16, where Gemma-2 overflows."""
    if choice == "fp32":
        return torch.float32
    small = choice in ("bf16", "fp8") or management.should_use_bf16(device)
    return torch.bfloat16 if small else torch.float32


class Layers(comfy.ops.manual_cast):
    """ComfyUI's layers, which move and cast their weights on use.

    Linear and Embedding load weights torch's way: with dynamic memory, ComfyUI's create no
    parameters until weights arrive, which a strict loader reports as missing.
    """

    class Linear(comfy.ops.manual_cast.Linear):
        """A linear layer with parameters from the start."""

        _load_from_state_dict = nn.Module._load_from_state_dict

        def forward_comfy_cast_weights(self, *args, **kwargs) -> Tensor:
            """Widen 8-bit weights last, after ComfyUI's own functions on the cast weight."""
            if not in_8_bits(self):
                return super().forward_comfy_cast_weights(*args, **kwargs)
            functions = self.weight_function
            self.weight_function = [*functions, self._widen]
            try:
                return super().forward_comfy_cast_weights(*args, **kwargs)
            finally:
                self.weight_function = functions

        def _widen(self, weight: Tensor) -> Tensor:
            return widened(weight, self.row_scale)

    class Embedding(comfy.ops.manual_cast.Embedding):
        """A table with parameters from the start."""

        _load_from_state_dict = nn.Module._load_from_state_dict

    class Conv2d(comfy.ops.manual_cast.Conv2d):
        """A convolution that checks for cancellation."""

        def forward(self, x: Tensor) -> Tensor:
            """As the base."""
            check_cancelled()
            return super().forward(x)


def attention(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """Run the attention ComfyUI was started with on [B, heads, L, d]; checks for cancellation.

    Where keys have a bias, PyTorch's replaces those not known to support it (sage drops it
    silently, flash warns at every call).
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
    """Store the blocks' linear weights, nearly all there are, in a smaller dtype."""
    for block in blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear) and not in_8_bits(layer):
                layer.weight = nn.Parameter(layer.weight.to(storage), requires_grad=False)


class Whole(nn.Module):
    """Wrap a network of foreign layers: the manager sets attributes on what it manages."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(lambda *_: check_cancelled())


@dataclass(frozen=True, eq=False, repr=False)
class Managed:
    """A network under ComfyUI's memory manager.

    whole: some of its layers cannot cast, so it is loaded completely or not at all.
    """

    patcher: comfy.model_patcher.ModelPatcher
    whole: bool


def manage(
    network: nn.Module, load_device: torch.device, offload_device: torch.device, dtype: torch.dtype
) -> Managed:
    """Hand a network to the memory manager; it computes in `dtype`."""
    if not _casts(network):
        network = Whole(network)
        patcher = comfy.model_patcher.ModelPatcher(network, load_device, offload_device)
        return Managed(patcher, True)
    network.execution = (load_device, dtype)
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return Managed(kind(network, load_device, offload_device), False)


def with_lora(managed: Managed, lora: Lora, strength: float) -> Managed:
    """A copy of a managed transformer, sharing its weights, that has a LoRA once it is loaded.

    Scope `both` patches weights, but acts beside those in 8 bits, to which the sum would be
    rounded. Scope `reference` must not patch, see `lora`. What acts beside weights is an adapter,
    and the network's list of these is what is patched.

    Raises CheckpointError for a LoRA that does not fit.
    """
    patcher = managed.patcher.clone()
    lora = lora.fitted(patcher.model.state_dict())
    beside = _beside(lora, patcher.model)
    if beside:
        part = replace(lora, layers=beside)
        adapters = [
            *patcher.get_model_object("adapters"),
            adapter_of(patcher.model, part, strength),
        ]
        patcher.add_object_patch("adapters", nn.ModuleList(adapters))
    tensors, places = {}, {}
    for name in lora.layers.keys() - beside.keys():
        layer, patched = lora.layers[name], patcher.model.get_submodule(name)
        up = layer.up
        if in_8_bits(patched):  # the patch is added before the weight is multiplied by its scales
            up = up.float() / patched.row_scale[:, None].to(up.device)
        places[name] = f"{name}.weight"
        tensors |= {
            f"{name}.lora_down.weight": layer.down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(layer.alpha),
        }
    taken = patcher.add_patches(comfy.lora.load_lora(tensors, places), strength)
    if lost := sorted(set(places.values()) - set(taken)):
        raise CheckpointError(f"{lora.where}: ComfyUI did not take {', '.join(lost[:8])}")
    return replace(managed, patcher=patcher)


def _beside(lora: Lora, network: nn.Module) -> dict[str, LoraLayer]:
    """The layers of a LoRA that act beside the weights, as the network runs."""
    if lora.scope == "reference":
        return dict(lora.layers)
    able = adaptable(network, lora.scope)
    return {n: x for n, x in lora.layers.items() if n in able and in_8_bits(able[n])}


def with_compiled_blocks(managed: Managed, **options: Any) -> Managed:
    """A copy of a managed transformer, sharing its weights, that is compiled as it runs.

    Whatever ComfyUI does to weights on use, and torch cannot capture, runs uncompiled.
    """
    patcher = managed.patcher.clone()
    network = patcher.model
    halves = network.compiled_halves(fullgraph=False, **options)
    for name, pair in zip(network.block_names, halves, strict=True):
        patcher.add_object_patch(f"{name}.halves", pair)
    return replace(managed, patcher=patcher)


def _casts(network: nn.Module) -> bool:
    """Whether every parameter belongs to a layer that casts it on use."""
    return all(
        hasattr(layer, "comfy_cast_weights")
        for layer in network.modules()
        if next(layer.parameters(recurse=False), None) is not None
    )


@contextmanager
def on_device(*networks: Managed, working_memory: int = 0) -> Iterator[None]:
    """Load networks onto their devices; the manager may unload them once others need room."""
    check_cancelled()
    try:
        management.load_models_gpu(
            [network.patcher for network in networks],
            memory_required=working_memory,
            force_full_load=any(network.whole for network in networks),
        )
        yield
    except OutOfMemory:
        management.unload_all_models()  # as ComfyUI does for an error of its own
        raise
