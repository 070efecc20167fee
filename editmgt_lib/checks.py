"""Argument checks; every message names the argument, its value and the fix."""

from collections.abc import Sequence
from dataclasses import fields
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .errors import InputError


def require_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise InputError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; use one of {', '.join(map(repr, allowed))}")


def require_number(
    name: str, value: Any, low: float, high: float = inf, whole: bool = False
) -> None:
    """Raise InputError unless `value` is a finite number (an int if `whole`) within low..high."""
    good = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not good or not low <= value <= high or value == inf:  # NaN fails too
        kind = "a whole number" if whole else "a number"
        bounds = f"from {low} up" if high == inf else f"from {low} to {high}"
        raise InputError(f"{name} is {value!r}; use {kind} {bounds}")


def plain(value: Any) -> Any:
    """Python's own number for NumPy's, a tuple of them for a list; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def use_plain_values(options: Any) -> None:
    """Make the fields of a frozen dataclass `plain`; for its `__post_init__`."""
    for f in fields(options):
        object.__setattr__(options, f.name, plain(getattr(options, f.name)))


def checked_image(image: Tensor) -> Tensor:
    """Check pictures [B, H, W, C]; float32 in 0..1, from floats or from uint8 (0..255)."""
    if not isinstance(image, Tensor):
        raise InputError(f"image is a {type(image).__name__}; give a tensor [B, H, W, C]")
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise InputError(
            f"image has shape {tuple(image.shape)}; use [B, H, W, C], none of them 0, C 1, 3 or 4"
        )
    if image.dtype == torch.uint8:
        return image.to(torch.float32) / 255
    if not image.is_floating_point():
        raise InputError(f"image is {image.dtype}; use a float type (0..1) or uint8 (0..255)")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= -1 and high <= 2):  # NaN and infinities fail too
        raise InputError(
            f"image holds values from {low:g} to {high:g}; use finite values in 0..1 "
            "(divide 0..255 by 255; NaN often comes from a float16 VAE)"
        )
    return image.to(torch.float32)


def checked_mask(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Check a mask and binarize it at 0.5: bool [batch, height, width].

    mask: [batch or 1, height, width], bool or float; one mask serves all items. InputError if it
    does not fit.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 3:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"mask is {got}; give a tensor [B or 1, H, W]")
    if mask.shape[1:] != (height, width):
        raise InputError(
            f"mask is {mask.shape[1]}x{mask.shape[2]} (height x width), the picture "
            f"{height}x{width}; resize the mask to the picture"
        )
    if mask.shape[0] not in (1, batch):
        raise InputError(
            f"there are {mask.shape[0]} masks for {batch} pictures; give one, or one for each"
        )
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            raise InputError(f"mask is {mask.dtype}; use bool, or float in 0..1")
        if bool(mask.aminmax().max.isnan()):
            raise InputError("mask holds NaN; use bool, or float in 0..1")
        mask = mask > 0.5
    return mask.expand(batch, -1, -1)
