"""Decode an opened Pillow image to integers [H, W, 3 or 4] at the full depth of the file.

Pillow has no mode for 16-bit colour and keeps the high bytes only. Its unpackers for the other
byte order take the other byte of each sample, so that a second pass over the same file gives the
low bytes; and a 16-bit grey + alpha pixel has the layout of four 8-bit samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .profiles import cmyk_to_srgb

if TYPE_CHECKING:
    from PIL import Image

_GREY_ALPHA = "LA;16B"
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_COLOUR = ("RGB;16", "RGBA;16", "RGBX;16")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # tags of a TIFF


@dataclass(frozen=True, eq=False)
class Decoded:
    """values: uint8 or uint16 [H, W, 3 or 4]; mode: Pillow's name for what the file held."""

    values: np.ndarray
    mode: str
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        return self.values.dtype.itemsize * 8


def decode(
    image: Image.Image, reopen: Callable[[], Image.Image], icc: bytes | None = None
) -> Decoded:
    """Decode the current frame; orientation is not applied.

    reopen: opens the same file again. icc: applied to CMYK only.
    Raises InputError for samples that do not fit 16 bits.
    """
    _refuse_deep_planes(image)
    mode, layout = image.mode, _layout(image)
    key = image.info.get("transparency")
    if layout == _GREY_ALPHA:
        _lay_out(image, "RGBA")
    image.load()  # inside np.asarray, some of its errors would be lost
    if layout == _GREY_ALPHA:
        values = np.asarray(image).view(">u2").astype(np.uint16)
        return Decoded(values[..., [0, 0, 0, 1]], "LA;16")
    if layout[:-1] in _COLOUR:
        with reopen() as low:
            _lay_out(low, layout[:-1] + _SWAPPED[layout[-1]])
            low.load()
            values = np.asarray(image).astype(np.uint16) << 8
            values |= np.asarray(low)
        return Decoded(_keyed(values, key), f"{mode};16")
    if mode.startswith("I"):
        return Decoded(_keyed(_grey16(image), key), mode)
    if mode == "F":
        raise InputError("the picture holds 32-bit floats; save it as a 16-bit PNG first")
    notes = ["16-bit channels are read with 8 bits"] if ";16" in layout else []
    if mode == "CMYK" and icc:
        image, note = cmyk_to_srgb(image, icc)
        notes.append(note)
    alpha = mode in _ALPHA_MODES or key is not None or _palette_mode(image).endswith("A")
    values = np.asarray(image.convert("RGBA" if alpha else "RGB"))
    return Decoded(values, mode, tuple(notes))


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to [H, W, C]; returns a view."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::down, ::across]


def _layout(image: Image.Image) -> str:
    """Pillow's raw mode of a PNG or TIFF that is not decoded yet, "" for anything else."""
    tiles = getattr(image, "tile", None)
    if not tiles or image.format not in ("PNG", "TIFF"):
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, (tuple, list)) else arguments)


def _lay_out(image: Image.Image, layout: str) -> None:
    """Decode with another raw mode."""
    tiles = []
    for tile in image.tile:
        arguments = (layout, *tile[3][1:]) if isinstance(tile[3], (tuple, list)) else layout
        changed = (*tile[:3], arguments)
        tiles.append(type(tile)(*changed) if hasattr(tile, "_fields") else changed)  # Pillow 11
    image.tile = tiles


def _refuse_deep_planes(image: Image.Image) -> None:
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if tags.get(_PLANES) == 2 and 16 in tags.get(_BITS, ()):
        raise InputError(
            "the TIFF stores 16-bit colour in separate planes; save it with interleaved channels"
        )


def _palette_mode(image: Image.Image) -> str:
    return image.palette.mode if image.mode == "P" and image.palette else ""


def _grey16(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"the grey picture holds values from {low} to {high}; save it with 16 bits (0..65535)"
        )
    values = values.astype(np.uint16)
    if image.format == "TIFF":
        if image.tag_v2.get(_BITS) == (12,):
            values = values << 4 | values >> 8
        if image.tag_v2.get(_PHOTOMETRIC) == 0:  # 0 is white
            values = ~values
    return np.repeat(values[..., None], 3, axis=-1)


def _keyed(values: np.ndarray, key: object) -> np.ndarray:
    """Add the alpha of a PNG that names one colour as transparent (16-bit values [H, W, 3])."""
    if values.shape[-1] != 3 or not isinstance(key, (int, tuple)):
        return values
    opaque = (values != np.asarray(key)).any(-1, keepdims=True)
    return np.concatenate([values, opaque * np.uint16(65535)], axis=-1, dtype=np.uint16)
