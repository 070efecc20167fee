"""Where a network computes, which its weights do not always tell: they may rest on the CPU.

A network that `rest` was said about is brought to its device by `at_work`, for a block of code. Its
weights are only read there, so the resting ones stay as they are: the network holds copies inside
the block, and leaving it drops these and costs nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Visits(NamedTuple):
    """The workplace of a network whose weights rest on the CPU.

    Attributes:
        device, dtype: what it takes its inputs in.
        stays: children that compute where they rest.
        in_turn: children, lists of layers, that come one layer at a time.
    """

    device: torch.device
    dtype: torch.dtype
    stays: tuple[str, ...] = ()
    in_turn: tuple[str, ...] = ()


def workplace(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and number format a network takes its inputs in: those of its first parameter.

    Unless whoever keeps its weights elsewhere or in a smaller format has written both into the
    network's attribute `workplace`: `rest`, or a host that brings them over layer by layer.
    """
    stated = getattr(network, "workplace", None)
    if stated is not None:
        return stated[0], stated[1]
    first = next(network.parameters())
    return first.device, first.dtype


def rest(
    network: nn.Module,
    device: torch.device,
    stays: tuple[str, ...] = (),
    in_turn: tuple[str, ...] = (),
) -> None:
    """Leave a network's weights where they are and have it compute on `device`; see `Visits`."""
    network.workplace = Visits(device, workplace(network)[1], stays, in_turn)


def move(network: nn.Module, device: torch.device | str) -> None:
    """Have a network compute on another device; weights that rest stay where they are."""
    stated = getattr(network, "workplace", None)
    if isinstance(stated, Visits):
        found = torch.empty(0, device=device).device  # fails here rather than at the first call
        network.workplace = stated._replace(device=found)
    else:
        network.to(device)


@contextmanager
def at_work(network: nn.Module) -> Iterator[None]:
    """Have a network's weights where it computes, inside the block.

    Does nothing for one whose weights do not rest, or that is at work already.
    """
    plan = getattr(network, "workplace", None)
    if not isinstance(plan, Visits):
        yield
        return
    lists = [network.get_submodule(name) for name in plan.in_turn]
    left_out = {m for name in plan.stays for m in network.get_submodule(name).modules()}
    left_out |= {m for layers in lists for m in layers.modules()}
    with ExitStack() as stack:
        stack.enter_context(_lent((m for m in network.modules() if m not in left_out), plan.device))
        for layer in (layer for layers in lists for layer in layers):
            stack.enter_context(_lent_when_called(layer, plan.device))
        yield


@contextmanager
def _lent_when_called(layer: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block, bring a layer's weights over for each of its calls."""
    with ExitStack() as visit:
        before = layer.register_forward_pre_hook(
            lambda *_: visit.enter_context(_lent(layer.modules(), device))
        )
        # Before hooks that are there already: of two visits the later one ends first.
        after = layer.register_forward_hook(
            lambda *_: visit.close(), prepend=True, always_call=True
        )
        try:
            yield
        finally:
            before.remove()
            after.remove()


@contextmanager
def _lent(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Have copies of the modules' own tensors on `device` in place of them, inside the block."""
    resting: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    copies: dict[int, Tensor] = {}  # one copy of tied tensors
    try:
        for module in modules:
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in copies:
                        copies[id(tensor)] = _brought(tensor, device)
                    resting.append((table, name, tensor))
                    table[name] = copies[id(tensor)]
        yield
    finally:
        for table, name, tensor in resting:
            table[name] = tensor


def _brought(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`: itself if it is there."""
    moved = tensor.to(device)
    if moved is tensor or not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved.detach(), requires_grad=False)
