"""What this machine can do at most, measured, and the share of it a row reaches."""

import math
from typing import Any

import torch

from . import work
from .cases import Case
from .clock import repeated, set_precision
from .work import Work

MASKED = 2 / math.pi  # mean share of masked tokens in training


def measure(device: str, precision: str, quick: bool) -> dict[str, float]:
    """Measure `flops` per second of a square product and `bytes` per second of a large copy."""
    dtype, cuda = set_precision(precision), torch.device(device).type == "cuda"
    sizes = (256,) if quick and not cuda else (4096, 8192) if cuda else (1024, 2048)
    seconds = 0.05 if quick else 1.0
    rates = []
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rates.append(2 * n**3 / min(repeated(lambda a=a, b=b: a @ b, device, seconds)))
    source = torch.ones((2**30 if cuda else 2**28) >> (4 if quick else 0), device=device).to(dtype)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()  # read and written
    rate = moved / min(repeated(lambda: target.copy_(source), device, seconds))
    return {"flops": max(rates), "bytes": rate}


def needed(case: Case, stage: str, asked: dict[str, Any]) -> Work | None:
    """What a stage computes and moves; None for those with hardly any products."""
    tokens, layers = case.side**2, asked.get("layers")
    probed = layers[1] - layers[0] + 1 if layers else 0
    steps, halves = asked.get("steps", 1), 2 * asked.get("batch", 1)
    sizes = work.Sizes(halves, case.text_length, tokens, tokens, steps, probed)
    encoding, decoding = work.encoding(case.vq, tokens), work.decoding(case.vq, tokens)
    if stage == "train":  # forward and backward of one half; logits of masked tokens alone
        one = work.Sizes(asked["batch"], case.text_length, tokens, tokens)
        return work.step(case.transformer, one, drawn=round(asked["batch"] * tokens * MASKED)) * 3
    if stage == "step":
        return work.step(case.transformer, sizes, drawn=halves // 2 * tokens)
    if stage in ("sample", "edit"):
        run = work.sampling(case.transformer, sizes)
        return encoding + run + decoding if stage == "edit" else run
    return {"tokenize": encoding, "decode": decoding}.get(stage)


def achieved(
    case: Case, rows: list[dict[str, Any]], limits: dict[str, float], item_size: int
) -> list[dict[str, Any]]:
    """Work of each row, the seconds the tighter ceiling allows, and each side's share of `flops`.

    The share counts the operations needed, so those computed beyond the need are a loss.
    """
    reached = []
    for row in rows:
        need = needed(case, row["stage"], row["asked"])
        if need is None:
            continue
        moved = need.elements * item_size
        floor = max(need.flops / limits["flops"], moved / limits["bytes"])
        entry = {"name": row["name"], "flops": need.flops, "bytes": moved, "floor_s": floor}
        for side in ("ours", "official"):
            if seconds := row.get(side, {}).get("median"):
                entry[side] = need.flops / seconds / limits["flops"]
        reached.append(entry)
    return reached
