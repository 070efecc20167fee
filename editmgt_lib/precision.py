"""The precision a call computes in: autocast suspended, TF32 as the loader chose."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import nn

from .offload import execution_device


@contextmanager
def own_precision(network: nn.Module) -> Iterator[None]:
    """Compute as the network was loaded to inside the block, whatever the process is set to.

    The network's attribute `tf32` says whether CUDA may round the factors of float32 products and
    convolutions. Without one, or with None, the process's own switches decide.
    """
    device, allowed = execution_device(network), getattr(network, "tf32", None)
    with ExitStack() as stack:
        stack.enter_context(no_autocast(device))
        if allowed is not None and device.type == "cuda":
            stack.enter_context(_tf32.set(allowed))
        yield


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Suspend autocast on `device` and on the CPU inside the block."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type} - {"meta"}:  # which knows no autocast
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _Switch(NamedTuple):
    """values: forbidden, allowed."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    values: tuple[Any, Any]


def _attribute(owner: Any, name: str, values: tuple[Any, Any]) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda x: setattr(owner, name, x), values)


def _switches() -> list[_Switch]:
    """Torch's switches for TF32; writing an old one, which come first, writes the new ones too."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    old = [
        _Switch(read, write, ("highest", "high")),
        _attribute(cudnn, "allow_tf32", (False, True)),
    ]
    if not hasattr(matmul, "fp32_precision"):  # before torch 2.9
        return old
    owners = matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul
    return old + [_attribute(owner, "fp32_precision", ("ieee", "tf32")) for owner in owners]


class _Tf32:
    """Sets the switches, which are the whole process's, for a block.

    Blocks may be nested, and overlap in several threads: the last one entered decides, and the last
    one left restores what the first one found.
    """

    def __init__(self) -> None:
        self._lock, self._open, self._found = Lock(), [], []

    @contextmanager
    def set(self, allowed: bool) -> Iterator[None]:
        block = [allowed]
        with self._lock:
            if not self._open:
                self._found = [(switch, _read(switch)) for switch in _switches()]
            self._open.append(block)
            self._write(allowed)
        try:
            yield
        finally:
            with self._lock:
                self._open = [one for one in self._open if one is not block]
                self._write(*self._open[-1]) if self._open else self._restore()

    def _write(self, allowed: bool) -> None:
        for switch in _switches():
            switch.write(switch.values[allowed])

    def _restore(self) -> None:
        for switch, value in self._found:
            if value is not None:
                switch.write(value)


def _read(switch: _Switch) -> Any:
    try:
        return switch.read()
    except RuntimeError:  # torch refuses to read an old switch where a new one contradicts it
        return None


_tf32 = _Tf32()
