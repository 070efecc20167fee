"""Metadata of a picture, and how much of it each format can store."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace

Chunk = tuple[bytes, bytes]
"""Kind and body of a PNG chunk."""

COLOUR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""PNG chunks that describe colour, and their lengths."""
_INCH = 0.0254  # metres
_SRGB = (
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
)
_LONGEST_EXIF = 65_527  # bytes; a JPEG segment takes no more
_LONGEST_ICC = 255 * 65_519


@dataclass(frozen=True)
class Metadata:
    """Everything about a picture but its pixels, for `write_image` to write back.

    icc: profile of the RGB pixels; colour: PNG chunks that describe colour (gAMA, cHRM, ...);
    exif: TIFF block, upright and without thumbnail; dpi: horizontal, vertical;
    texts: PNG text chunks, unchanged.
    """

    icc: bytes | None = field(default=None, repr=False)
    colour: tuple[Chunk, ...] = field(default=(), repr=False)
    exif: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    texts: tuple[Chunk, ...] = field(default=(), repr=False)

    def within(self, format_: str) -> tuple[Metadata, tuple[str, ...]]:
        """Reduce to what PNG, JPEG or WEBP can store, with one sentence for each part dropped."""
        if format_ == "PNG":
            return self, ()
        gone, notes = {}, []
        if self.texts:
            gone["texts"] = ()
            names = ", ".join(dict.fromkeys(_keyword(body) for _, body in self.texts))
            notes.append(f"{format_} holds no text chunks; not kept: {names}")
        if self.colour:
            gone["colour"] = ()
            if not self._is_srgb():
                kinds = ", ".join(kind.decode() for kind, _ in self.colour)
                notes.append(f"{format_} holds no {kinds}; colours may look different")
        if self.dpi and format_ == "WEBP":
            gone["dpi"] = None
            notes.append("WEBP holds no resolution (dpi); it is not kept")
        if format_ == "JPEG" and len(self.exif or b"") > _LONGEST_EXIF:
            gone["exif"] = None
            notes.append("the EXIF block is too long for JPEG and is not kept")
        if format_ == "JPEG" and len(self.icc or b"") > _LONGEST_ICC:
            gone["icc"] = None
            notes.append("the colour profile is too long for JPEG; colours may look different")
        return replace(self, **gone), tuple(notes)

    def png_chunks(self) -> list[Chunk]:
        """List the chunks that go between IHDR and IDAT."""
        chunks = list(self.colour)
        if self.icc:
            chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(self.icc)))
        if self.dpi:
            per_metre = (min(max(round(value / _INCH), 1), 2**31 - 1) for value in self.dpi)
            chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
        if self.exif:
            chunks.append((b"eXIf", self.exif))
        return chunks + list(self.texts)

    def _is_srgb(self) -> bool:
        """Whether the colours look the same without the colour chunks."""
        kinds = {kind for kind, _ in self.colour}
        if kinds & {b"cICP", b"mDCV", b"cLLI"}:
            return False
        return bool(self.icc) or b"sRGB" in kinds or set(self.colour) <= set(_SRGB)


def _keyword(body: bytes) -> str:
    return body.split(b"\0", 1)[0][:79].decode("latin-1")
