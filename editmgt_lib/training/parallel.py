"""The only file that knows what processes do together.

A launcher (`torchrun`, `accelerate launch`, Slurm, Ray) starts the same program many times and sets
the variables that `data.processes` reads, beside torch's own MASTER_ADDR and MASTER_PORT. Without
them there is one process, and nothing here communicates.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.processes import this_process
from ..errors import InputError

PARALLEL = ("ddp", "fsdp")
LIMIT = timedelta(hours=2)  # for what one process does while the others wait: export, pictures


@dataclass(frozen=True)
class World:
    """This process among all of a run.

    Attributes:
        rank: number of this process; 0 writes files and shows progress.
        size: number of processes.
        device: where this process computes.
        slow: gloo group for small CPU tensors and long waits, which NCCL would give up on.
    """

    rank: int
    size: int
    device: torch.device
    slow: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def alone(self) -> "World":
        """The same process as a world of its own."""
        return replace(self, rank=0, size=1, slow=None)

    def part(self, numbers: Sequence[int]) -> Sequence[int]:
        """Select this process's share: consecutive, sizes differing by one at most."""
        return split(numbers, self.size)[self.rank]

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, on the device it is on."""
        if self.size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor, group=self.slow if tensor.device.type == "cpu" else None)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Maximum of a CPU tensor over all processes, value by value."""
        if self.size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.slow)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(float(flag))) > 0)

    def shared(self, value: Any) -> Any:
        """Give every process the plain value that the first one has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.slow)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Give every process the plain values of all, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.slow)
        return values

    def on_first(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the first process while the others wait; all get its plain result.

        An error of the first process is raised by all, so that none waits for ever.
        """
        if self.size == 1:
            return action()
        result = error = None
        if self.first:
            try:
                result = action()
            except Exception as raised:
                error = raised
        failed = self.shared(None if error is None else str(error))
        if error is not None:
            raise error
        if failed is not None:
            raise InputError(f"the first process failed: {failed}")
        return self.shared(result)


ONE = World(0, 1, torch.device("cpu"))


def split(numbers: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Cut into consecutive parts whose sizes differ by one at most."""
    edges = [len(numbers) * i // parts for i in range(parts + 1)]
    return [numbers[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that a launcher started, inside the block.

    device: "cuda" stands for this process's own GPU.

    Raises InputError for impossible variables.
    """
    rank, size, local = this_process()
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        local = local or 0
        if local >= torch.cuda.device_count():
            raise InputError(
                f"LOCAL_RANK is {local}, but there are {torch.cuda.device_count()} GPUs here; "
                "start one process per GPU"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()  # Ray joins before it calls
    if ours:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=size
        )
    try:
        with warnings.catch_warnings():
            for harmless in ("`broadcast_buffers` is deprecated", "Grad strides do not match"):
                warnings.filterwarnings("ignore", harmless)
            yield World(rank, size, device, dist.new_group(backend="gloo", timeout=LIMIT))
    finally:
        if ours:
            dist.destroy_process_group()


class Whole(nn.Module):
    """A stage's networks and its loss as one module, which is what gets wrapped."""

    def __init__(self, modules: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.networks, self.loss = modules, loss

    def forward(self, *args: Any) -> Any:
        return self.loss(*args)


def wrapped(modules: nn.Module, loss: Callable[..., Any], world: World, kind: str) -> nn.Module:
    """Wrap networks for training by many processes; calling the result computes the loss.

    With "ddp" every process holds everything and gradients are averaged. With "fsdp" each holds a
    slice of every tensor, and gathers a block's for as long as it computes.
    """
    whole = Whole(modules, loss)
    if world.size == 1:
        return whole
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(
            whole, broadcast_buffers=False, gradient_as_bucket_view=True
        )  # fmt: skip
    _shard(whole, world)
    return whole


def _shard(whole: nn.Module, world: World) -> None:
    from torch.distributed.fsdp import fully_shard

    from ..models.blocks import Block, ModulationLayer

    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    # Modulations are computed before the blocks run, so they are gathered by themselves.
    for kind in (ModulationLayer, Block):
        for module in whole.modules():
            if isinstance(module, kind):
                fully_shard(module, mesh=mesh)
    fully_shard(whole, mesh=mesh)


def accumulating(model: nn.Module, last: bool) -> Any:
    """Context of one micro-batch: gradients are exchanged in the last one only."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
    elif hasattr(model, "no_sync") and not last:
        return model.no_sync()
    return nullcontext()


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Have every process hold all weights, to compute with; only "fsdp" has something to do."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True)


@contextmanager
def plain_weights(model: nn.Module, world: World) -> Iterator[None]:
    """Have the first process hold all weights as plain tensors, to save them."""
    # Gathered ones would not do: saving a module's state spreads its weights again.
    spread = [(m, n, p) for m in model.modules() for n, p in m._parameters.items()]
    spread = [(m, n, p) for m, n, p in spread if hasattr(p, "full_tensor")]
    for module, name, parameter in spread:
        whole = full(parameter.detach())
        if world.first:
            module._parameters[name] = nn.Parameter(whole.cpu(), parameter.requires_grad)
    try:
        yield
    finally:
        for module, name, parameter in spread:
            module._parameters[name] = parameter


def full(tensor: Tensor) -> Tensor:
    """Collect a tensor that is spread over the processes; all have to call this together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Move a whole tensor to the device of `like`, and keep this process's part of it."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
