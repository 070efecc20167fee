"""Colour profiles of grey and CMYK pictures, which become RGB here."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# sRGB primaries adapted to D50.
_COLORANTS = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
_D50 = (0.9642, 1.0, 0.8249)
_SPACES = {b"RGB ": "RGB", b"GRAY": "grey", b"CMYK": "CMYK", b"Lab ": "Lab"}


def fitting_profile(icc: bytes, space: str) -> tuple[bytes | None, str]:
    """Make a profile for the RGB pixels of a "grey" or "RGB" picture; None and a note if it fails.

    A grey profile becomes an RGB profile with the same tone curve, so no pixel changes.
    """
    own = _SPACES.get(icc[16:20])
    if own not in (None, space):
        return None, f"the colour profile is for {own}, the picture is {space}; it is not kept"
    if space == "RGB":
        return icc, ""
    converted = _rgb_of_grey(icc)
    return (
        converted,
        "" if converted else "the grey profile cannot be kept; tones may look different",
    )


def cmyk_to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, str]:
    """Convert to sRGB and return a note; the image is unchanged if that fails."""
    try:
        from PIL import ImageCms

        source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        return converted, "CMYK is converted to sRGB through its own profile"
    except Exception:  # littlecms may be missing, and refuses a profile in many ways
        return image, "the CMYK profile cannot be applied; colours may look different"


def _rgb_of_grey(icc: bytes) -> bytes | None:
    """Build a matrix profile that uses the grey curve three times; None without such a curve."""
    if icc[16:24] != b"GRAYXYZ " or len(icc) < 132:
        return None
    (count,) = struct.unpack_from(">I", icc, 128)
    tags = {}
    for at in range(132, min(132 + 12 * count, len(icc) - 11), 12):
        name, start, size = struct.unpack_from(">4sII", icc, at)
        if start + size <= len(icc):
            tags[name] = icc[start : start + size]
    if b"kTRC" not in tags:
        return None
    kept = {name: tags[name] for name in (b"desc", b"cprt", b"chad") if name in tags}
    kept |= {b"wtpt": _xyz(_D50)} | {name: _xyz(value) for name, value in _COLORANTS.items()}
    kept |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tags[b"kTRC"])
    table, body = struct.pack(">I", len(kept)), b""
    start = 132 + 12 * len(kept)
    for name, value in kept.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = bytearray(icc[:128])
    header[0:4] = struct.pack(">I", start + len(body))
    header[12:20] = b"mntrRGB "
    header[84:100] = bytes(16)  # the checksum of the old profile
    return bytes(header) + table + body


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))
