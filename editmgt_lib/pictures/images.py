"""Pictures from files, without losing a bit where the format allows it.

A picture is a float32 tensor [1, H, W, C], C 3 or 4, values k/255 or k/65535, exact in float32:
read, untouched and written again as PNG or WebP (8 bits) or PNG (16 bits), every value is the
one that was read. JPEG output is lossy, and no promise is made about it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .contents import Contents, add_info, split
from .decoding import decode, turned
from .formats import HEAD, READABLE, format_of
from .metadata import Metadata
from .profiles import fitting_profile
from .writing import write_image

if TYPE_CHECKING:
    from PIL import Image

    Source = str | os.PathLike[str] | bytes | Image.Image

__all__ = ["MAX_SIDE", "READABLE", "Metadata", "Picture", "read_image", "read_mask", "write_image"]

MAX_SIDE = 8192
_KINDS = "PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP"
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "LA;16")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it was read.

    pixels: float32 [1, H, W, C], 0..1, C 4 where the file has transparency, else 3;
    bits: 8 or 16 per channel; mode: Pillow's name for what the file held ("P", "L", "I;16", ...);
    metadata: pass it to `write_image`; notes: one sentence for each part of the file that was not
    read or cannot be kept.
    """

    pixels: Tensor
    bits: int
    mode: str
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[-1] == 4

    def __repr__(self) -> str:
        height, width, channels = self.pixels.shape[1:]
        return f"Picture({height}x{width}x{channels}, {self.bits} bits, from {self.mode})"


@dataclass(frozen=True, eq=False)
class Samples:
    """A picture's integers as the file holds them, upright.

    values: uint8 or uint16 [H, W, 3 or 4]; mode: Pillow's name for what the file held.
    """

    values: np.ndarray
    mode: str
    contents: Contents

    @property
    def bits(self) -> int:
        return self.values.dtype.itemsize * 8


def read_image(source: Source) -> Picture:
    """Read a file (path or its bytes) or a PIL image; upright (EXIF), the first frame of several.

    PNG, JPEG, WebP, TIFF, GIF and BMP, and AVIF where Pillow reads it; the content decides, not
    the name. Palette, 1-bit, grey and CMYK pictures become RGB, or RGBA where they hold
    transparency. 16 bits survive in PNG and TIFF; a PIL image of 16-bit colour has 8 left.
    Raises InputError: missing, not a picture, cut off, empty, or a side above 8192 pixels.
    """
    from PIL import Image

    name = _name(source)
    with _input_errors(name):
        if isinstance(source, Image.Image):
            image = source.copy()  # the caller's own is neither closed nor changed
            return _picture(_decode(image, Contents(b""), source.copy, name))
        return _picture(_read(_data(source), name))


def read_samples(data: bytes) -> Samples:
    """Read a file's bytes as the integers it holds; else as `read_image`."""
    name = _name(data)
    with _input_errors(name):
        return _read(data, name)


@contextmanager
def _input_errors(name: str) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"cannot read {name}: it is damaged, or of a rare kind; save it anew as PNG"
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds for a broken file
        raise InputError(
            f"cannot read {name} as a picture ({error}); give an existing, complete {_KINDS} file"
        ) from error


def read_mask(source: Source) -> Tensor:
    """Region from a picture: float32 [1, H, W], 1 inside; same sources and errors as read_image.

    White, or any painted colour (the brightest channel counts), is inside; black and transparent
    are outside.
    """
    pixels = read_image(source).pixels
    mask = pixels[..., :3].amax(-1)
    return mask * pixels[..., 3] if pixels.shape[-1] == 4 else mask


def _data(source: str | os.PathLike[str] | bytes) -> bytes:
    """Read a file, or only its first bytes if it is not a picture."""
    if isinstance(source, bytes):
        return source
    with open(os.fspath(source), "rb") as file:
        head = file.read(HEAD)
        return head + file.read() if format_of(head) else head


def _read(data: bytes, name: str) -> Samples:
    from PIL import Image

    format_ = format_of(data[:HEAD])
    if format_ is None:
        found = f"its content is no {_KINDS}" if data else "it is empty"
        raise InputError(f"cannot read {name} as a picture: {found}; give another file")
    if format_ not in Image.OPEN:
        Image.init()
    if format_ not in Image.OPEN:
        raise InputError(f"{name} is {format_}, which this Pillow does not read; update Pillow")
    contents = split(data, format_)

    def reopen() -> Image.Image:
        # Not a path: Pillow memory-maps some files and then scrambles those it turns.
        return Image.open(io.BytesIO(contents.pixels), formats=[format_])

    with reopen() as image:
        return _decode(image, contents, reopen, name)


def _decode(
    image: Image.Image, contents: Contents, reopen: Callable[[], Image.Image], name: str
) -> Samples:
    _check_size(image.size, name)
    add_info(contents, image)
    decoded = decode(image, reopen, contents.icc)
    contents.notes.extend(decoded.notes)
    if contents.pixels:
        _note_frames(contents, image)
    return Samples(turned(decoded.values, contents.orientation), decoded.mode, contents)


def _picture(samples: Samples) -> Picture:
    contents, bits = samples.contents, samples.bits
    metadata = contents.metadata()
    if metadata.icc:
        metadata = replace(metadata, icc=_rgb_profile(contents, samples.mode))
    pixels = _tensor(samples.values, bits)
    return Picture(pixels, bits, samples.mode, metadata, tuple(contents.notes))


def _rgb_profile(contents: Contents, mode: str) -> bytes | None:
    """Convert the file's profile to one for RGB pixels; add a note where that fails."""
    if mode in ("CMYK", "LAB"):
        return None  # already applied by `decode`
    profile, note = fitting_profile(contents.icc, "grey" if mode in _GREY_MODES else "RGB")
    contents.notes.extend([note] if note else ())
    return profile


def _note_frames(contents: Contents, image: Image.Image) -> None:
    try:
        frames = max(contents.frames, getattr(image, "n_frames", 1))
    except Exception:  # a later frame is damaged; the first one is read already
        frames = contents.frames
    contents.frames = frames
    if frames > 1:
        others = "frame 2 is" if frames == 2 else f"frames 2 to {frames} are"
        contents.notes.append(f"{others} not read")


def _tensor(values: np.ndarray, bits: int) -> Tensor:
    """[H, W, C] whole numbers -> float32 [1, H, W, C], divided the way ComfyUI's LoadImage does."""
    pixels = values.astype(np.float32)
    pixels /= np.float32(2**bits - 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]


def _name(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def _check_size(size: tuple[int, int], name: str) -> None:
    if min(size) < 1:
        raise InputError(f"{name} is {size[0]}x{size[1]} pixels; use a picture that is not empty")
    if max(size) > MAX_SIDE:
        raise _too_large(name, f"{size[0]}x{size[1]} pixels")


def _too_large(name: str, what: str) -> InputError:
    return InputError(f"{name} is too large ({what}); no side may exceed {MAX_SIDE} pixels")
