"""What this machine can do at most, measured, and how close a row comes to it."""

import time
from collections.abc import Callable
from typing import Any

import torch

from . import work
from .cases import Case
from .clock import set_precision, synchronize
from .work import Sizes, Work


def best(call: Callable[[], object], device: str, seconds: float) -> float:
    """The shortest of the calls that fit into so many seconds, at least three."""
    call()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def measure(device: str, precision: str, quick: bool) -> dict[str, float]:
    """What the device does a second: `flops` in a square product, `bytes` in a copy.

    The bytes count as read and as written, and are too many for a cache.
    """
    dtype, cuda = set_precision(precision), torch.device(device).type == "cuda"
    sizes = (256,) if quick and not cuda else (4096, 8192) if cuda else (1024, 2048)
    seconds = 0.05 if quick else 1.0
    rates = []
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rates.append(2 * n**3 / best(lambda a=a, b=b: a @ b, device, seconds))
    source = torch.ones((2**30 if cuda else 2**28) >> (4 if quick else 0), device=device).to(dtype)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    rate = moved / best(lambda: target.copy_(source), device, seconds)
    return {"flops": max(rates), "bytes": rate}


def sizes_of(case: Case, asked: dict[str, Any]) -> Sizes:
    """The transformer's sizes behind a row."""
    batch, side = asked.get("batch", 1), asked.get("side") or case.side
    layers = asked.get("layers")
    return Sizes(
        batch=2 * batch, text=case.text_length, tokens=side**2, reference=side**2,
        probed=layers[1] - layers[0] + 1 if layers else 0, probed_items=batch,
    )  # fmt: skip


def needed(case: Case, stage: str, asked: dict[str, Any]) -> Work | None:
    """What a stage has to compute and move; None for those with hardly any products."""
    sizes, tokens = sizes_of(case, asked), case.side**2
    if stage == "step":
        return work.step(case.transformer, sizes, drawn=sizes.batch // 2 * sizes.tokens)
    if stage in ("sample", "edit"):
        total = work.sampling(case.transformer, sizes, asked["steps"])
        ends = work.encoding(case.vq, tokens) + work.decoding(case.vq, tokens)
        return total + ends if stage == "edit" else total
    only = {"tokenize": work.encoding, "decode": work.decoding}
    return only[stage](case.vq, tokens) if stage in only else None


def achieved(
    case: Case, found: list[dict[str, Any]], limits: dict[str, float], item_size: int
) -> list[dict[str, Any]]:
    """Per row: its work, the seconds both ceilings allow, and each side's share of the first.

    A side's share is the operations needed over what the matrix ceiling does in its time: what it
    computes beyond the need counts as loss. The seconds are those of the tighter ceiling.
    """
    rows = []
    for record in found:
        need = needed(case, record["stage"], record["asked"])
        if need is None:
            continue
        floor = max(need.flops / limits["flops"], need.elements * item_size / limits["bytes"])
        row = {"name": record["name"], "flops": need.flops, "bytes": need.elements * item_size,
               "floor_s": floor}  # fmt: skip
        for side in ("ours", "official"):
            if seconds := record.get(side, {}).get("median"):
                row[side] = need.flops / seconds / limits["flops"]
        rows.append(row)
    return rows
