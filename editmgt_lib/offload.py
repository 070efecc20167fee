"""Execution device and offloading: weights may stay on the CPU while a network runs elsewhere.

`offload` records where a network executes; `onloaded` brings its weights there for a block of code.
The weights are only read, so the block works on copies and leaving it costs nothing. It swaps the
module's parameters for them, hence an offloaded network serves one thread at a time. For a CUDA
device, weights rest in page-locked memory, and layers that are onloaded one by one are copied one
ahead of the layer that computes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Offload(NamedTuple):
    """How an offloaded network executes.

    Attributes:
        device, dtype: of its inputs.
        excluded: children that execute where their weights are.
        layerwise: children, lists of layers, that are onloaded one layer at a time.
        present: whether the weights are on the device now.
    """

    device: torch.device
    dtype: torch.dtype
    excluded: tuple[str, ...] = ()
    layerwise: tuple[str, ...] = ()
    present: bool = False


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
    plan = module.execution = Offload(device, execution(module)[1], excluded, layerwise)
    _pin(module, plan)


def move_execution(module: nn.Module, device: torch.device | str) -> None:
    """Move execution to another device. Offloaded weights stay where they are."""
    stated = getattr(module, "execution", None)
    if isinstance(stated, Offload):
        # A device that cannot be used fails here rather than at the first call.
        usable = torch.empty(0, dtype=torch.uint8, device=device).device
        plan = module.execution = stated._replace(device=usable)
        _pin(module, plan)
    else:
        module.to(device)


@contextmanager
def onloaded(module: nn.Module) -> Iterator[None]:
    """Keep a network's weights on its execution device inside the block.

    Does nothing for a network that is not offloaded, or is onloaded already.
    """
    plan = getattr(module, "execution", None)
    if not isinstance(plan, Offload) or plan.present:
        yield
        return
    lists = [module.get_submodule(name) for name in plan.layerwise]
    left_out = _excluded(module, plan) | {m for layers in lists for m in layers.modules()}
    together = [m for m in module.modules() if m not in left_out]
    with ExitStack() as stack:
        stack.enter_context(_replaced(together, _copies(together, plan.device)))
        for layers in lists:
            stack.enter_context(_OneByOne(layers, plan.device).hooked())
        module.execution = plan._replace(present=True)
        stack.callback(setattr, module, "execution", plan)
        yield


def _excluded(module: nn.Module, plan: Offload) -> set[nn.Module]:
    return {m for name in plan.excluded for m in module.get_submodule(name).modules()}


def _pin(module: nn.Module, plan: Offload) -> None:
    """Move resting weights to page-locked memory, from where CUDA copies faster and meanwhile."""
    if plan.device.type != "cuda":
        return
    left_out = _excluded(module, plan)
    try:
        for m in (m for m in module.modules() if m not in left_out):
            for tensor in (*m._parameters.values(), *m._buffers.values()):
                if tensor is not None and tensor.device.type == "cpu":
                    tensor.data = _pinned(tensor.data)
    except RuntimeError:  # the system locks no more memory; the others stay as they are
        return


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory()  # itself if it is pinned


class _Lane:
    """A CUDA stream for copies, beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def copying(self) -> AbstractContextManager:
        """What is copied inside the block is copied on this stream."""
        return torch.cuda.stream(self._stream)

    def copied(self) -> Any:
        """Event after all copies so far."""
        return self._stream.record_event()

    def receive(self, copies: Iterable[Tensor], event: Any) -> None:
        """Let computation wait for copies, and their memory for the end of computation."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)
        for tensor in copies:
            tensor.record_stream(computing)

    def computed(self) -> Any:
        """Event after all computation so far."""
        return torch.cuda.current_stream(self._device).record_event()


def _lane(device: torch.device) -> _Lane | None:
    """Copies run beside computation only on CUDA."""
    return _Lane(device) if device.type == "cuda" else None


class _OneByOne:
    """Onloads layers for their calls; where there is a lane, one ahead. At most two are there."""

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._layers, self._device, self._lane = layers, device, _lane(device)
        self._ahead: dict[int, tuple[dict[int, Tensor], Any]] = {}
        self._computed: Any = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Onload every layer that is called inside the block."""
        with ExitStack() as stack:
            stack.callback(self._ahead.clear)
            for number, layer in enumerate(self._layers):
                call = stack.enter_context(ExitStack())
                before = layer.register_forward_pre_hook(
                    lambda *_, number=number, call=call: self._enter(number, call)
                )
                stack.callback(before.remove)
                # First of all hooks: where calls are nested, the inner one ends first.
                after = layer.register_forward_hook(
                    lambda *_, call=call: self._leave(call), prepend=True, always_call=True
                )
                stack.callback(after.remove)
            yield

    def _enter(self, number: int, call: ExitStack) -> None:
        layer, lane = self._layers[number], self._lane
        if lane is None:
            copies = _copies(layer.modules(), self._device)
        else:
            copies, event = self._ahead.pop(number, None) or self._fetch(number)
            lane.receive(copies.values(), event)
        call.enter_context(_replaced(layer.modules(), copies))
        if lane is not None and number + 1 < len(self._layers):
            if self._computed is not None:  # else copies would pile up: computation is queued
                self._computed.synchronize()
            self._ahead[number + 1] = self._fetch(number + 1)

    def _leave(self, call: ExitStack) -> None:
        call.close()
        if self._lane is not None:
            self._computed = self._lane.computed()

    def _fetch(self, number: int) -> tuple[dict[int, Tensor], Any]:
        with self._lane.copying():
            return _copies(self._layers[number].modules(), self._device), self._lane.copied()


def _copies(modules: Iterable[nn.Module], device: torch.device) -> dict[int, Tensor]:
    """Copies on `device` of the modules' own parameters and buffers, by the originals' ids."""
    copies: dict[int, Tensor] = {}  # one of tied tensors
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in copies:
                copies[id(tensor)] = _onload(tensor, device)
    return copies


@contextmanager
def _replaced(modules: Iterable[nn.Module], copies: Mapping[int, Tensor]) -> Iterator[None]:
    """Temporarily replace the modules' own parameters and buffers with their copies."""
    originals: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    try:
        for module in modules:
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        originals.append((table, name, tensor))
                        table[name] = copies[id(tensor)]
        yield
    finally:
        for table, name, tensor in originals:
            table[name] = tensor


def _onload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`: itself if it is there."""
    # From pinned memory, later work on the stream waits for the copy; the program need not.
    moved = tensor.to(device, non_blocking=tensor.is_pinned())
    if moved is tensor or not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved.detach(), requires_grad=False)
