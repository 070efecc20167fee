"""Ways to compute attention with strength: timed, and held against the definition.

Strength adds a bias to the logits of some keys, which flash kernels do not take. Candidates that
win on a device move to `editmgt_lib/models/backends.py`, into `BACKENDS` and `PREFERRED`.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from editmgt_lib.models.attention import AttentionFunction, QueryGroup
from editmgt_lib.models.backends import BACKENDS, sdpa, split_keys

PADDED = 8  # channels are added in eights: flash kernels read 16 bytes at a time


def with_kernel(kernel: SDPBackend, attention: AttentionFunction) -> AttentionFunction:
    """Let PyTorch use one of its kernels only; it raises where that one does not run."""

    def only(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
        with sdpa_kernel(kernel):
            return attention(q, k, v, groups)

    return only


def bias_in_channels(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """Carry the bias in further channels of queries and keys, so that no mask is needed.

    A biased group has two channels: ones in its queries, the bias in its keys, in two parts whose
    sum is exact where one would be rounded to half precision.
    """
    biased = [g for g in groups if g.bias]
    if not biased:
        return F.scaled_dot_product_attention(q, k, v)
    width = q.shape[-1]
    wider = math.ceil(2 * len(biased) / PADDED) * PADDED
    more_q, more_k = (x.new_zeros(*x.shape[:-1], wider) for x in (q, k))
    for i, group in enumerate(biased):
        bias = group.bias * math.sqrt(width)  # scaled like the other logits
        coarse = torch.tensor(bias, dtype=k.dtype).item()
        more_q[:, :, group.rows, 2 * i : 2 * i + 2] = 1
        more_k[:, :, group.keys, 2 * i] = coarse
        more_k[:, :, group.keys, 2 * i + 1] = bias - coarse
    q, k, v = torch.cat([q, more_q], -1), torch.cat([k, more_k], -1), F.pad(v, (0, wider))
    return F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(width))[..., :width]


def flex(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """One kernel compiled with the bias in it; outside CUDA not compiled, and slow."""
    from torch.nn.attention.flex_attention import flex_attention

    spans = [(g.rows.start, g.rows.stop, g.keys.start, g.keys.stop, g.bias) for g in groups]

    def biased(score: Tensor, b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        for first, last, start, stop, bias in spans:
            inside = (row >= first) & (row < last) & (key >= start) & (key < stop)
            score = score + bias * inside
        return score

    run = _compiled_flex() if q.device.type == "cuda" else flex_attention
    return run(q, k, v, score_mod=biased)


@lru_cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _cudnn_partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    return out, lse.reshape(q.shape[:-1])


def _efficient_partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return out, lse[..., : q.shape[2]]  # padded to a multiple of 32


EFFICIENT, CUDNN = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION
CANDIDATES: dict[str, AttentionFunction] = {
    **BACKENDS,
    "flash, bias in channels": with_kernel(SDPBackend.FLASH_ATTENTION, bias_in_channels),
    "cudnn, mask": with_kernel(CUDNN, sdpa),
    "cudnn, split keys": split_keys(_cudnn_partial),
    "cudnn, bias in channels": with_kernel(CUDNN, bias_in_channels),
    "efficient, mask": with_kernel(EFFICIENT, sdpa),
    "efficient, split keys": split_keys(_efficient_partial),
    "flex": flex,
}


def inputs(length: int, batch: int, heads: int, width: int, like: Tensor) -> list[Tensor]:
    """Random queries, keys and values [batch, heads, length, width]."""
    shape = batch, heads, length, width
    return [torch.randn(shape, device=like.device).to(like.dtype) for _ in range(3)]


def error(out: Tensor, exact: Tensor) -> float:
    """Relative distance of a result from the definition's."""
    return float((out.double() - exact).norm() / exact.norm())


def definition(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """Softmax of biased logits times values, in float64."""
    logits = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    for g in groups:
        logits[:, :, g.rows, g.keys] += g.bias
    return logits.softmax(-1) @ v.double()
