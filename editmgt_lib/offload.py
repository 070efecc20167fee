"""Execution device and offloading: weights may stay on the CPU while a network runs elsewhere.

`offload` records where a network executes; `onloaded` brings its weights there for a block of code.
The weights are only read, so the block works on copies and leaving it costs nothing. It swaps the
module's parameters for them, hence an offloaded network serves one thread at a time.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Offload(NamedTuple):
    """How an offloaded network executes.

    Attributes:
        device, dtype: of its inputs.
        excluded: children that execute where their weights are.
        layerwise: children, lists of layers, that are onloaded one layer at a time.
    """

    device: torch.device
    dtype: torch.dtype
    excluded: tuple[str, ...] = ()
    layerwise: tuple[str, ...] = ()


def execution(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a network's inputs: those of its first parameter.

    A network whose weights are kept elsewhere or in a smaller dtype says so in its attribute
    `execution`, set by `offload` or by a host that moves the weights layer by layer.
    """
    stated = getattr(module, "execution", None)
    if stated is not None:
        return stated[0], stated[1]
    first = next(module.parameters())
    return first.device, first.dtype


def execution_device(module: nn.Module) -> torch.device:
    """Where a network runs."""
    return execution(module)[0]


def offload(
    module: nn.Module,
    device: torch.device,
    excluded: tuple[str, ...] = (),
    layerwise: tuple[str, ...] = (),
) -> None:
    """Execute on `device` from now on, leaving the weights where they are; see `Offload`."""
    module.execution = Offload(device, execution(module)[1], excluded, layerwise)


def move_execution(module: nn.Module, device: torch.device | str) -> None:
    """Move execution to another device. Offloaded weights stay where they are."""
    stated = getattr(module, "execution", None)
    if isinstance(stated, Offload):
        # A device that cannot be used fails here rather than at the first call.
        usable = torch.empty(0, dtype=torch.uint8, device=device).device
        module.execution = stated._replace(device=usable)
    else:
        module.to(device)


@contextmanager
def onloaded(module: nn.Module) -> Iterator[None]:
    """Keep a network's weights on its execution device inside the block.

    Does nothing for a network that is not offloaded, or is onloaded already.
    """
    plan = getattr(module, "execution", None)
    if not isinstance(plan, Offload):
        yield
        return
    lists = [module.get_submodule(name) for name in plan.layerwise]
    left_out = {m for name in plan.excluded for m in module.get_submodule(name).modules()}
    left_out |= {m for layers in lists for m in layers.modules()}
    with ExitStack() as stack:
        together = (m for m in module.modules() if m not in left_out)
        stack.enter_context(_copied(together, plan.device))
        for layer in (layer for layers in lists for layer in layers):
            stack.enter_context(_copied_per_call(layer, plan.device))
        yield


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Suspend autocast on `device` and on the CPU inside the block."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type} - {"meta"}:  # which knows no autocast
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _copied_per_call(layer: nn.Module, device: torch.device) -> Iterator[None]:
    """Onload a layer for the duration of each of its calls."""
    with ExitStack() as call:
        before = layer.register_forward_pre_hook(
            lambda *_: call.enter_context(_copied(layer.modules(), device))
        )
        # First of all hooks: where calls are nested, the inner one ends first.
        after = layer.register_forward_hook(lambda *_: call.close(), prepend=True, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()


@contextmanager
def _copied(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Temporarily replace the modules' own parameters and buffers with copies on `device`."""
    originals: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    copies: dict[int, Tensor] = {}  # one copy of tied tensors
    try:
        for module in modules:
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in copies:
                        copies[id(tensor)] = _onload(tensor, device)
                    originals.append((table, name, tensor))
                    table[name] = copies[id(tensor)]
        yield
    finally:
        for table, name, tensor in originals:
            table[name] = tensor


def _onload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`: itself if it is there."""
    moved = tensor.to(device)
    if moved is tensor or not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved.detach(), requires_grad=False)
