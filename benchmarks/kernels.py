"""Kernels, host synchronisations, bytes and FLOPs of one step, counted without a GPU.

    python -m benchmarks.kernels --json benchmarks/results/kernels.json

The networks are built on the meta device at the published size and a real sampling run goes
through them. Every operation that reaches the dispatcher there would be a kernel on a GPU, except
views and empty allocations. Whatever reads a tensor's values, or makes a shape of them, has no
answer on meta tensors: it is counted as a synchronisation, and what is not caught here raises.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from editmgt_lib.errors import Cancelled
from editmgt_lib.localization.maps import LocalizationOptions
from editmgt_lib.models.backends import BACKENDS
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.pictures.canvas import Canvas, Tokens
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.recording import RecordingPredictor
from editmgt_lib.sampling.run import sample_batch

from . import records
from .cases import Case, instruction_of, published, random_inputs
from .table import counts_table

WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
                  "detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh",
                  "scalar_tensor"}  # fmt: skip


@dataclass
class Tally:
    """What was counted.

    kernels: by operation. syncs: what made the host wait for the device, in order.
    bytes: read and written once by every kernel. flops: of products and attention.
    recorded: kernels in graphs, which the host does not launch.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    views: int = 0
    syncs: list[str] = field(default_factory=list)
    bytes: int = 0
    flops: int = 0
    recorded: int = 0

    @property
    def launches(self) -> int:
        """Kernels of all kinds."""
        return self.kernels.total()

    def ran(self, name: str, tensors: Sequence[Any], flops: int = 0) -> None:
        """Count one kernel on these inputs and outputs."""
        self.kernels[name] += 1
        self.flops += flops
        self.bytes += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


class _Dispatched(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self, laps: "Laps") -> None:
        super().__init__()
        self.laps = laps

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tally, name = self.laps.current, func.overloadpacket.__name__
        inputs, outputs = (
            [t for t in tree_leaves(given) if isinstance(t, Tensor)]
            for given in ((args, kwargs), out)
        )
        if not any(t.is_meta for t in (*inputs, *outputs)):
            return out  # the host's own work
        if func.is_view:
            tally.views += 1
        elif name not in WITHOUT_KERNEL:
            if any(not t.is_meta and t.ndim for t in inputs):
                tally.syncs.append(f"upload by {name}")
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
            tally.ran(name, [*inputs, *outputs], flops)
        return out


class _Called(TorchFunctionMode):
    """Counts calls that read values, answering for them, and kernels that are one on a GPU only."""

    def __init__(self, laps: "Laps") -> None:
        super().__init__()
        self.laps = laps
        self.answers: dict[Callable, Callable[..., Any]] = {
            Tensor.__bool__: lambda t: True,
            Tensor.item: lambda t: 1,
            Tensor.__int__: lambda t: 1,
            Tensor.__float__: lambda t: 1.0,
            Tensor.__index__: lambda t: 1,
            Tensor.tolist: lambda t: [],
            Tensor.cpu: lambda t: _on_host(t),
            Tensor.nonzero: lambda t: t.new_zeros(t.numel(), t.ndim, dtype=torch.int64),
            torch.nonzero: lambda t: t.new_zeros(t.numel(), t.ndim, dtype=torch.int64),
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, tally = kwargs or {}, self.laps.current
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None or not first.is_meta:
            out = func(*args, **kwargs)
            if func in (torch.tensor, torch.as_tensor) and out.is_meta:
                tally.syncs.append("upload by " + func.__name__)
            return out
        if func in self.answers:
            tally.syncs.append(func.__name__)
            return self.answers[func](first)
        if func is Tensor.to and _to_host(args[1:], kwargs):
            tally.syncs.append("copy to the host")
            return _on_host(first)
        if func is Tensor.__getitem__ and _is_mask(args[1]):
            tally.syncs.append("index by a mask")
            return first.new_empty(args[1].numel(), *first.shape[args[1].ndim :])
        if func is F.scaled_dot_product_attention:
            return self._attention(tally, *args, **kwargs)
        if func in (F.rms_norm, torch.rms_norm):
            return self._norm(tally, first, args, kwargs)
        return func(*args, **kwargs)

    def _attention(self, tally: Tally, q, k, v, attn_mask=None, **_) -> Tensor:
        """One kernel, which leaves rows of all heads side by side."""
        out = torch.empty_like(q.transpose(1, 2).contiguous()).transpose(1, 2)
        tally.kernels["clone"] -= 0 if q.transpose(1, 2).is_contiguous() else 1
        tally.ran("attention", [q, k, v, attn_mask, out], 4 * q.numel() * k.shape[2])
        return out

    def _norm(self, tally: Tally, x: Tensor, args, kwargs) -> Tensor:
        """One kernel, after a copy if rows do not lie one after the other."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        if not x.is_contiguous():
            tally.ran("copy for rms_norm", [x, out])
        tally.ran("rms_norm", [x, out])
        return out


def _on_host(t: Tensor) -> Tensor:
    return torch.ones(t.shape, dtype=t.dtype, device="cpu")


def _to_host(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    targets = [*args, *kwargs.values()]
    devices = [torch.device(t) for t in targets if isinstance(t, str | torch.device)]
    devices += [t.device for t in targets if isinstance(t, Tensor)]
    return any(d.type == "cpu" for d in devices)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


class Laps:
    """Tallies of consecutive parts of a run."""

    def __init__(self) -> None:
        self.done: list[Tally] = []
        self.current = Tally()

    def next(self) -> None:
        """Close the current part."""
        self.done.append(self.current)
        self.current = Tally()

    def graph(self, call: Callable[[], Any]) -> "OneLaunch":
        """Stand in for `CudaGraph`: what is recorded does not count, a replay is one launch."""
        before, self.current = self.current, Tally()
        result, recorded = call(), self.current
        self.current = before
        return OneLaunch(self, result, recorded)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside the block."""
        with _Called(self), _Dispatched(self):
            yield


@dataclass(frozen=True)
class OneLaunch:
    """A graph with its result and what it does."""

    laps: Laps
    result: Any
    recorded: Tally

    def replay(self) -> None:
        """Count it."""
        now = self.laps.current
        now.kernels["graph"] += 1
        now.recorded += self.recorded.launches
        now.syncs += self.recorded.syncs
        now.bytes += self.recorded.bytes
        now.flops += self.recorded.flops


def build(case: Case, dtype: torch.dtype = torch.bfloat16) -> MaskedTransformer:
    """The transformer of a case on the meta device, in the dtypes the loader would give it."""
    with torch.device("meta"):
        network = MaskedTransformer(case.transformer)
    network = network.to(dtype).requires_grad_(False)
    network.mlm_layer.conv2.float()
    return network


def steps(
    case: Case,
    network: MaskedTransformer,
    read: bool = False,
    graphs: bool = False,
    attention: str = "sdpa",
    **asked: Any,
) -> list[Tally]:
    """Tallies of a run's preparation with its first step, and of its second and third step.

    read: read a map at every step and hold by it. graphs: record the steps. attention: a back end.
    asked: sampling options.
    """
    inputs, pixels = random_inputs(case), case.side * case.vq.factor
    ids, laps = inputs["reference"], Laps()
    tokens = Tokens(ids, Canvas.blank(1, pixels, pixels, case.vq.factor), ids)
    options = SamplingOptions(threshold=0.3 if read else 0.0, **asked)

    def lap(event: Any) -> bool:
        laps.next()
        return event.step < 2

    network.records, network.attention = graphs, BACKENDS[attention]
    try:
        with patch.object(RecordingPredictor, "graph", laps.graph), laps.counting():
            sample_batch(
                network, tokens, instruction_of(inputs), options,
                LocalizationOptions() if read else None, None, "intersection", None, False, lap,
            )  # fmt: skip
    except Cancelled:
        return laps.done
    raise AssertionError("the run was to end at its third step")


ROWS: dict[str, dict[str, Any]] = {
    "strength 1": {"strength": 1.0},
    "strength 1.1 (default)": {},
    "strength 1.1, flash": {"attention": "flash"},
    "strength 1.1, map read and held by": {"read": True},
    "no guidance": {"guidance": 1.0},
    "strength 1.1, recorded as graphs": {"graphs": True},
    "strength 1.1, map read, recorded as graphs": {"graphs": True, "read": True},
}


def count(case: Case) -> list[dict[str, Any]]:
    """Count the steps of `ROWS`."""
    network, rows = build(case), []
    for name, asked in ROWS.items():
        tally = steps(case, network, **asked)[2]
        rows.append({
            "name": name, "kernels": tally.launches, "views": tally.views,
            "syncs": len(tally.syncs), "bytes": tally.bytes, "flops": tally.flops,
            "by_kind": dict(tally.kernels.most_common()), "waits": tally.syncs,
        })  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    p.add_argument("--json", type=Path, help="write the counts to this file")
    p.add_argument("--kinds", action="store_true", help="also list the kernels by kind")
    given, case = p.parse_args(arguments), published()
    counted = count(case)
    result = {"config": case.name, "torch": torch.__version__, "counted": counted}
    if given.json:
        records.update(given.json, result)
    print(counts_table(result))
    if given.kinds:
        for row in counted:
            print(row["name"], row["by_kind"], row["waits"], sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
