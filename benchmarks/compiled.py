"""Kernels of a step with compiled blocks, counted in what inductor writes for a CPU.

    python -m benchmarks.compiled --json benchmarks/results/kernels.json

Nothing it writes is built or run: only how many kernels there are is wanted. Triton's for a GPU may
be fewer, since it joins small ones side by side.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from editmgt_lib.models import projections
from editmgt_lib.models.conditioning import InjectionOptions
from editmgt_lib.models.transformer import MaskedTransformer

from . import records
from .cases import Case, published, random_network


def halves(case: Case) -> list[dict[str, int]]:
    """Products and other kernels of every graph: a double block's halves, then a single block's."""
    from torch._inductor import metrics
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx

    counts: list[dict[str, int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        products = sum("linear" in str(node.target) for node in graph.graph.nodes)
        metrics.reset()
        compiled = compile_fx(graph, inputs)
        counts.append({"products": products, "kernels": metrics.generated_kernel_count})
        return compiled

    def never_built(*_: Any, **__: Any) -> Callable[..., None]:
        return lambda *_: None

    with (
        patch.object(AsyncCompile, "cpp_pybinding", never_built),
        patch.object(projections, "SEPARATE", ()),  # as on a GPU
        torch._inductor.config.patch(fx_graph_cache=False),
    ):
        _first_step(_small(case), backend)
    return counts


def _small(case: Case) -> MaskedTransformer:
    """A network of one double block and two single ones, in few channels."""
    config = replace(
        case.transformer, num_layers=1, num_single_layers=2, num_attention_heads=2,
        attention_head_dim=32, axes_dims_rope=(8, 12, 12), joint_attention_dim=16,
        pooled_projection_dim=16, vocab_size=40, codebook_size=32,
    )  # fmt: skip
    return random_network(lambda: MaskedTransformer(config), 1).to(torch.bfloat16)


@torch.no_grad()
def _first_step(network: MaskedTransformer, backend: Callable[..., Any]) -> None:
    network.compile_blocks(backend=backend)
    text, pooled = torch.zeros(2, 6, 16), torch.zeros(2, 16)
    ids = torch.zeros(2, 8, 8, dtype=torch.int64)
    conditioning = network.prepare(
        text.bfloat16(), pooled.bfloat16(), torch.zeros(2, 5), [0.0], (8, 8), ids,
        InjectionOptions(1.1),
    )  # fmt: skip
    network.step(ids, 0, conditioning)


def launches(case: Case, counts: Sequence[dict[str, int]]) -> int:
    """Launches of all blocks, attention as two calls and a copy."""
    first, second, third, fourth, *_ = (c["products"] + c["kernels"] for c in counts)
    double, single = case.transformer.num_layers, case.transformer.num_single_layers
    return double * (first + second + 3) + single * (third + fourth + 3)


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    p.add_argument("--json", type=Path, help="add the counts to this file")
    given, case = p.parse_args(arguments), published()
    counts = halves(case)
    result = {"graphs": len(counts), "halves": counts, "launches": launches(case, counts)}
    if given.json:
        records.update(given.json, {"compiled": result})
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
