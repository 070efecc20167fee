"""Write pictures and their metadata as PNG (8 or 16 bits), JPEG or WebP."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import atomic_path
from .formats import WRITABLE
from .metadata import Chunk, Metadata

if TYPE_CHECKING:
    from PIL import Image

_PNG_HEADER = 33  # bytes of signature and IHDR
_STRIP = 64  # rows of a 16-bit PNG filtered and packed at once


def write_image(
    path: str | os.PathLike[str],
    image: Tensor,
    bits: int = 8,
    metadata: Metadata | None = None,
) -> tuple[str, ...]:
    """Write [1, H, W, C] or [H, W, C] (C 1, 3 or 4, 0..1) as .png, .jpg/.jpeg or .webp.

    The file appears complete or not at all (`files.atomic_path`); missing folders are made.
    PNG and WebP are lossless at 8 bits (colour under transparency included), PNG at 16; JPEG is
    lossy and holds no transparency. metadata: `Picture.metadata`. Returns one sentence for each
    part of it that the format cannot store.
    Raises InputError, also where the place cannot be written.
    """
    path = Path(path)
    format_ = WRITABLE.get(path.suffix.lower())
    if format_ is None:
        raise InputError(f"{path} has suffix {path.suffix!r}; use {', '.join(WRITABLE)}")
    if bits not in (8, 16):
        raise InputError(f"bits is {bits!r}; use 8 or 16")
    if bits == 16 and format_ != "PNG":
        raise InputError(f"bits is 16 and {path.name} is {format_}; only .png holds 16 bits")
    pixels = _checked_pixels(image)
    if pixels.shape[-1] == 4 and format_ == "JPEG":
        raise InputError(f"{path.name}: JPEG holds no transparency; use .png or .webp")
    held, notes = (metadata or Metadata()).within(format_)
    with atomic_path(path) as beside, beside.open("xb") as file:
        if format_ == "PNG":
            file.writelines(_png(pixels, bits, held.png_chunks()))
        else:
            _image(pixels).save(file, format_, **_options(format_, held))
    return notes


def _checked_pixels(image: Tensor) -> Tensor:
    """Float picture [H, W, C]."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"image is {got}; give a float tensor [1, H, W, C] with values 0..1")
    shape = tuple(image.shape)
    if len(shape) == 4 and shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise InputError(f"image has shape {shape}; write one picture [1, H, W, C], C 1, 3 or 4")
    image = image.detach().cpu()
    if bool(image.aminmax().max.isnan()):
        raise InputError("image holds NaN; decode again in float32")
    return image


def _whole(pixels: Tensor, bits: int) -> np.ndarray:
    """0..1 -> nearest whole numbers: uint8, or big-endian uint16 as PNG wants them."""
    peak = 2**bits - 1
    scaled = pixels.to(torch.float32).clamp(0, 1).mul_(peak).round_()
    return scaled.numpy().astype(np.uint8 if bits == 8 else ">u2")


def _options(format_: str, metadata: Metadata) -> dict[str, object]:
    options: dict[str, object] = {}
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if format_ == "WEBP":
        return options | {"lossless": True, "exact": True}
    if metadata.dpi:
        options["dpi"] = tuple(min(max(round(value), 1), 65535) for value in metadata.dpi)
    return options | {"quality": 95, "subsampling": 0}


def _image(pixels: Tensor) -> Image.Image:
    from PIL import Image

    values = _whole(pixels, 8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _png(pixels: Tensor, bits: int, chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """Yield a PNG with these chunks after its header."""
    if bits == 16:
        others = _png16(pixels)
        first = next(others)
    else:
        file = io.BytesIO()
        _image(pixels).save(file, "PNG", compress_level=4)
        whole = file.getbuffer()
        first, others = whole[:_PNG_HEADER], [whole[_PNG_HEADER:]]
    yield first
    yield from (_chunk(*chunk) for chunk in chunks)
    yield from others


def _png16(pixels: Tensor) -> Iterator[bytes]:
    """Yield a 16-bit PNG, its header first; Pillow writes 16 bits for grey only.

    Rows are stored as the difference to the row above (filter 2), strip by strip, so that memory
    stays small.
    """
    height, width, channels = pixels.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    yield b"\x89PNG\r\n\x1a\n" + header
    packer = zlib.compressobj(4)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for start in range(0, height, _STRIP):
        rows = _whole(pixels[start : start + _STRIP], 16)
        rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
        filtered = rows - np.concatenate([above, rows[:-1]])  # bytes, modulo 256
        filtered = np.pad(filtered, ((0, 0), (1, 0)), constant_values=2)
        above = rows[-1:]
        if packed := packer.compress(filtered.tobytes()):
            yield _chunk(b"IDAT", packed)
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
