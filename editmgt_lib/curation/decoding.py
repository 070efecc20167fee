"""Decode untrusted bytes to one kind of picture: upright 8-bit RGB, on white where transparent."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..pictures.formats import HEAD, format_of
from ..pictures.images import read_samples

BACKGROUND = 255  # white; colours hidden under full transparency must not show
LARGEST_FILE = 256 * 2**20  # bytes; pictures have at most 8192 pixels a side


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture and what its file was like.

    Attributes:
        rgb: uint8 [H, W, 3].
        format, mode, bits, frames: of the file; only the first frame is read.
        transparent: fraction of pixels that are not opaque.
        trailing: bytes behind the end of the picture, where another file may hide.
    """

    rgb: np.ndarray
    format: str
    mode: str
    bits: int
    frames: int
    transparent: float
    trailing: int


def decode_picture(data: bytes) -> Decoded:
    """Decode the first frame of a picture file.

    Raises InputError: no picture, damaged, cut off, or more than 8192 pixels a side, which is known
    from its header alone.
    """
    if len(data) > LARGEST_FILE:
        raise InputError(f"the file has {len(data)} bytes, more than {LARGEST_FILE}; leave it out")
    samples = read_samples(data)
    rgb, transparent = _on_background(_eight_bits(samples.values))
    format_ = format_of(data[:HEAD]) or ""
    frames = 1 if format_ == "JPEG" else samples.contents.frames  # previews, not animation
    return Decoded(
        rgb, format_, samples.mode, samples.bits, frames, transparent, trailing_bytes(data)
    )


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale 16 bits to 8, rounded: 65535 is 255."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _on_background(values: np.ndarray) -> tuple[np.ndarray, float]:
    """[H, W, 3 or 4] to RGB and the fraction of pixels that are not opaque."""
    if values.shape[-1] == 3:
        return np.ascontiguousarray(values), 0.0
    colour, alpha = values[..., :3].astype(np.uint32), values[..., 3:].astype(np.uint32)
    mixed = (colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8), float((alpha < 255).mean())


def trailing_bytes(data: bytes) -> int:
    """Bytes behind the end mark of a PNG, JPEG or WebP; 0 for other formats."""
    end = len(data)
    if data.startswith(b"\x89PNG"):
        at = data.rfind(b"IEND")
        end = at + 8 if at >= 0 else end
    elif data.startswith(b"\xff\xd8"):
        at = data.rfind(b"\xff\xd9")
        end = at + 2 if at >= 0 else end
    elif data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        end = 8 + size + size % 2
    return max(0, len(data) - end)
