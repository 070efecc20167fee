"""Pictures from and to files, without losing a bit where the format allows it.

A picture is a float32 tensor [1, H, W, C], C 3 or 4, values k/255 or k/65535, exact in float32:
read, untouched and written again as PNG or WebP (8 bits) or PNG (16 bits), every value is the
one that was read. JPEG output is lossy, and no promise is made about it.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import atomic_path

if TYPE_CHECKING:
    from PIL import Image

    Source = str | os.PathLike[str] | bytes | Image.Image

MAX_SIDE = 8192
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_STRIP = 64  # rows of a 16-bit PNG filtered and packed at once

# Pillow has no mode for 16-bit colour and keeps the high bytes only. Its "16L" unpackers take the
# other byte of each sample, so that a second pass over the same file gives the low bytes; and a
# 16-bit grey + alpha pixel has the layout of four 8-bit samples.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_GREY_ALPHA = "LA;16B"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it was read.

    pixels: float32 [1, H, W, C], 0..1, C 4 where the file has transparency, else 3;
    bits: 8 or 16 per channel, what `write_image` needs to lose nothing; mode: Pillow's name for
    what the file held ("P", "L", "I;16", ...); icc: the colour profile of an RGB file, or None.
    """

    pixels: Tensor
    bits: int
    mode: str
    icc: bytes | None = field(default=None, repr=False)

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[-1] == 4

    def __repr__(self) -> str:
        height, width, channels = self.pixels.shape[1:]
        return f"Picture({height}x{width}x{channels}, {self.bits} bits, from {self.mode})"


def read_image(source: Source) -> Picture:
    """Read a file (path or its bytes) or a PIL image; upright (EXIF), the first frame of several.

    Palette, 1-bit, grey and CMYK pictures become RGB, or RGBA where they hold transparency.
    16 bits survive in PNG (grey, grey + alpha, RGB, RGBA) and in grey TIFF; other 16-bit colour
    files, and 16-bit colour handed over as a PIL image, have 8 bits left once Pillow opened them.
    Raises InputError: missing, not a picture, cut off, empty, or a side above 8192 pixels.
    """
    from PIL import Image

    name = _name(source)
    try:
        with _opened(source) as image:
            _check_size(image.size, name)
            return _decode(image, source)
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except Exception as error:  # Pillow's readers raise many kinds for a broken file
        raise InputError(
            f"cannot read {name} as a picture ({error}); give an existing, complete PNG, JPEG, "
            "WebP, TIFF, GIF or BMP file."
        ) from error


def read_mask(source: Source) -> Tensor:
    """Region from a picture: float32 [1, H, W], 1 inside; same sources and errors as read_image.

    White, or any painted colour (the brightest channel counts), is inside; black and transparent
    are outside.
    """
    pixels = read_image(source).pixels
    mask = pixels[..., :3].amax(-1)
    return mask * pixels[..., 3] if pixels.shape[-1] == 4 else mask


def write_image(
    path: str | os.PathLike[str], image: Tensor, bits: int = 8, icc: bytes | None = None
) -> None:
    """Write [1, H, W, C] or [H, W, C] (C 1, 3 or 4, 0..1) as .png, .jpg/.jpeg or .webp.

    The file appears complete or not at all (`files.atomic_path`); missing folders are made.
    PNG and WebP are lossless at 8 bits (colour under transparency included), PNG at 16; JPEG is
    lossy and holds no transparency. icc: colour profile to embed (`Picture.icc`).
    Raises InputError, also where the place cannot be written.
    """
    path = Path(path)
    format_ = _SUFFIXES.get(path.suffix.lower())
    if format_ is None:
        raise InputError(f"{path} has suffix {path.suffix!r}; use {', '.join(_SUFFIXES)}.")
    if bits not in (8, 16):
        raise InputError(f"bits is {bits!r}; use 8 or 16.")
    if bits == 16 and format_ != "PNG":
        raise InputError(f"bits is 16 and {path.name} is {format_}; only .png holds 16 bits.")
    pixels = _checked_pixels(image)
    if pixels.shape[-1] == 4 and format_ == "JPEG":
        raise InputError(f"{path.name}: JPEG holds no transparency; use .png or .webp.")
    with atomic_path(path) as beside, beside.open("xb") as file:
        _write(file, pixels, format_, bits, icc)


def _opened(source: Source):
    from PIL import Image

    if isinstance(source, Image.Image):
        return source.copy()  # the caller's own is neither closed nor rotated
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _decode(image: Image.Image, source: Source) -> Picture:
    from PIL import ImageOps

    mode, codec = image.mode, _codec(image)
    profile = image.info.get("icc_profile") if mode in ("RGB", "RGBA", "P") else None
    key = image.info.get("transparency")
    low = None
    if codec in _LOW_BYTES:
        low = _opened(source)
        low.tile = [low.tile[0]._replace(args=_LOW_BYTES[codec])]
    elif codec == _GREY_ALPHA:
        image.tile = [image.tile[0]._replace(args="RGBA")]
    image.load()
    upright = ImageOps.exif_transpose(image)
    if codec == _GREY_ALPHA:
        values = np.asarray(upright).view(">u2")
        return Picture(_tensor(values[..., [0, 0, 0, 1]], 16), 16, "LA;16")
    if low is not None:
        with low:
            low.load()
            # The low pass repeats the file's pixels only; its own EXIF turns it the same way.
            values = np.asarray(upright).astype(np.uint16) << 8
            values |= np.asarray(ImageOps.exif_transpose(low))
        return Picture(_tensor(_keyed(values, key), 16), 16, f"{mode};16", profile)
    if mode.startswith("I"):
        return Picture(_tensor(_keyed(_grey16(upright), key), 16), 16, mode)
    if mode == "F":
        raise InputError("the picture holds 32-bit floats; save it as a 16-bit PNG first.")
    alpha = image.has_transparency_data
    values = np.asarray(upright.convert("RGBA" if alpha else "RGB"))
    return Picture(_tensor(values, 8), 8, mode, profile)


def _codec(image: Image.Image) -> str:
    """The raw layout of a PNG still to be decoded, "" for anything else."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0].args) if image.format == "PNG" and tiles else ""


def _grey16(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"the grey picture holds values from {low} to {high}; save it with 16 bits (0..65535)."
        )
    return np.repeat(values.astype(np.uint16)[..., None], 3, axis=-1)


def _keyed(values: np.ndarray, key: object) -> np.ndarray:
    """Add the alpha of a PNG that names one colour as transparent (16-bit values [H, W, 3])."""
    if values.shape[-1] != 3 or not isinstance(key, (int, tuple)):
        return values
    opaque = (values != np.asarray(key)).any(-1, keepdims=True)
    return np.concatenate([values, opaque * np.uint16(65535)], axis=-1, dtype=np.uint16)


def _tensor(values: np.ndarray, bits: int) -> Tensor:
    """[H, W, C] whole numbers -> float32 [1, H, W, C], divided the way ComfyUI's LoadImage does."""
    pixels = values.astype(np.float32)
    pixels /= np.float32(2**bits - 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]


def _checked_pixels(image: Tensor) -> Tensor:
    """Float picture [H, W, C]."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"image is {got}; give a float tensor [1, H, W, C] with values 0..1.")
    shape = tuple(image.shape)
    if len(shape) == 4 and shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise InputError(f"image has shape {shape}; write one picture [1, H, W, C], C 1, 3 or 4.")
    image = image.detach().cpu()
    if bool(image.aminmax().max.isnan()):
        raise InputError("image holds NaN; decode again in float32.")
    return image


def _whole(pixels: Tensor, bits: int) -> np.ndarray:
    """0..1 -> nearest whole numbers: uint8, or big-endian uint16 as PNG wants them."""
    peak = 2**bits - 1
    scaled = pixels.to(torch.float32).clamp(0, 1).mul_(peak).round_()
    return scaled.numpy().astype(np.uint8 if bits == 8 else ">u2")


def _write(file: BinaryIO, pixels: Tensor, format_: str, bits: int, icc: bytes | None) -> None:
    if bits == 16:
        for part in _png16(pixels, icc):
            file.write(part)
        return
    from PIL import Image

    values = _whole(pixels, 8)
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    options = {
        "PNG": {"compress_level": 4},
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
    }[format_]
    image.save(file, format_, **options, **({"icc_profile": icc} if icc else {}))


def _png16(pixels: Tensor, icc: bytes | None) -> Iterator[bytes]:
    """A 16-bit PNG in pieces; Pillow writes 16 bits for grey only.

    Rows are stored as the difference to the row above (filter 2), strip by strip, so that memory
    stays small.
    """
    height, width, channels = pixels.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    yield b"\x89PNG\r\n\x1a\n"
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    if icc:
        yield _chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc))
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


def _name(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def _check_size(size: tuple[int, int], name: str) -> None:
    if min(size) < 1:
        raise InputError(f"{name} is {size[0]}x{size[1]} pixels; use a picture that is not empty.")
    if max(size) > MAX_SIDE:
        raise _too_large(name, f"{size[0]}x{size[1]} pixels")


def _too_large(name: str, what: str) -> InputError:
    return InputError(f"{name} is too large ({what}); no side may exceed {MAX_SIDE} pixels.")
