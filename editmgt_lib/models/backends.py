"""Attention back ends: kernels for softmax(q k^T + bias) v.

A back end is a function `(q, k, v, groups) -> out` on [B, heads, L, d]; `groups`, which cover all
query rows, hold the bias (`attention.QueryGroup`).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import EditMGTError, InputError
from .attention import AttentionFunction, QueryGroup


def sdpa(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """PyTorch's kernel, called per group, with the bias as a mask of one row."""
    parts = []
    for group in groups:
        mask = None if group.key_bias is None else group.key_bias.to(q.dtype)
        parts.append(F.scaled_dot_product_attention(q[:, :, group.rows], k, v, attn_mask=mask))
    if len(parts) == 1:
        return parts[0]
    # The kernels leave the heads of a row side by side, as the caller needs them.
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


def math_attention(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
    """Plain products and a float32 softmax: slow, runs everywhere, trains fastest on a CPU."""
    logits = ((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)).float()
    if any(g.key_bias is not None for g in groups):
        zero, rows = logits.new_zeros(1, 1, 1, k.shape[2]), []
        for g in groups:
            bias = zero if g.key_bias is None else g.key_bias
            rows.append(bias.expand(1, 1, g.rows.stop - g.rows.start, -1))
        logits = logits + torch.cat(rows, dim=2)
    return logits.softmax(dim=-1).to(v.dtype) @ v


def split_keys(partial: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]):
    """Build a back end from a kernel that takes no bias but returns log-sum-exps.

    Attention over two sets of keys is a mean of the attention over each, weighted by the
    log-sum-exps, to which the bias, constant over a set, is added. Two calls serve all groups if
    their biases begin or end at the same key, as with scope "text+image".

    Args:
        partial: `(q, k, v) -> (out [B, heads, L, d], lse [B, heads, L])`.
    """

    def attention(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[QueryGroup]) -> Tensor:
        if all(g.bias == 0 for g in groups):
            return partial(q, k, v)[0]
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            # The kernels' log-sum-exps carry no gradient, so the result's would be wrong.
            raise EditMGTError("this attention trains at strength 1 only; use 'sdpa'")
        inner = {edge for g in groups for edge in (g.keys.start, g.keys.stop)}
        edges, parts = sorted(inner | {0, k.shape[2]}), []
        for start, stop in zip(edges, edges[1:], strict=False):
            out, lse = partial(q, k[:, :, start:stop], v[:, :, start:stop])
            shift = [g.bias if g.keys.start <= start < g.keys.stop else 0.0 for g in groups]
            rows = [g.rows.stop - g.rows.start for g in groups]
            lse = torch.cat([x + s for x, s in zip(lse.split(rows, 2), shift, strict=True)], 2)
            parts.append((out, lse))
        out, lse = parts[0]
        for other, other_lse in parts[1:]:
            # One kernel reads both, in their own dtype; interpolation itself is in float32.
            weight = torch.sigmoid(other_lse - lse)[..., None].to(out.dtype)
            out, lse = torch.lerp(out, other, weight), torch.logaddexp(lse, other_lse)
        return out

    return attention


def _flash_partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]


def _xformers_partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    from xformers.ops import fmha

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, L, heads, d]
    out, lse = fmha.memory_efficient_attention_partial(q, k, v)
    return out.transpose(1, 2), lse[..., : q.shape[1]]


flash = split_keys(_flash_partial)
xformers = split_keys(_xformers_partial)

BACKENDS: dict[str, AttentionFunction] = {
    "sdpa": sdpa,
    "flash": flash,
    "xformers": xformers,
    "math": math_attention,
}


# What "auto" is, by device type; "sdpa" elsewhere. Published sizes, strength 1.1:
# - cpu: sdpa 94-103 ms, flash 87-100 (4 heads of 128, one core): no difference worth a change.
# - cuda: not measured. Candidates and their measurement are in benchmarks/gpu_attention.py.
PREFERRED = {"cpu": "sdpa", "cuda": "sdpa"}


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> AttentionFunction:
    """Look up a back end; `"auto"` is the fastest one measured on this kind of device.

    Raises:
        InputError: it is unknown, not installed, or does not run on this device and dtype.
    """
    if name == "auto":
        name = PREFERRED.get(device.type, "sdpa")
    if name not in BACKENDS:
        raise InputError(f"attention is {name!r}; use one of auto, {', '.join(BACKENDS)}")
    missing = None
    if name == "flash" and device.type == "cuda" and dtype == torch.float32:
        missing = "float16 or bfloat16"
    elif name == "flash" and device.type not in ("cpu", "cuda"):
        missing = "a CPU or a CUDA device"
    elif name == "xformers":
        missing = _missing_for_xformers(device)
    if missing:
        raise InputError(f"attention {name!r} needs {missing}, not {device} in {dtype}; use 'sdpa'")
    return BACKENDS[name]


def _missing_for_xformers(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "a CUDA device"
    try:
        from xformers.ops.fmha import memory_efficient_attention_partial  # noqa: F401
    except ImportError:
        return "the package xformers"
    return None
