"""Split a picture file into what determines its pixels and its metadata.

Pillow rejects a picture for one odd tag, a damaged profile or a long text, and its versions differ
in how they treat them. So Pillow gets a file without any of that. Metadata is read here, and a
part that cannot be read is dropped on its own.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import exif
from .metadata import COLOUR_CHUNKS, Chunk, Metadata

if TYPE_CHECKING:
    from PIL import Image

_SPLIT = ("PNG", "JPEG", "TIFF")
_LONGEST_PROFILE = 64 * 2**20  # bytes after unpacking
_LONGEST_TEXT = 64 * 2**20
# Dropped without a note: animation, display hints, dates and layout.
_SILENT_CHUNKS = (
    b"acTL", b"fcTL", b"fdAT", b"bKGD", b"hIST", b"sBIT", b"sPLT", b"tIME", b"iDOT", b"oFFs",
    b"vpAg",
)  # fmt: skip
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|='|>)\s*([1-8])\b")


@dataclass
class Contents:
    """A picture file in parts.

    pixels: the file without its metadata; exif, xmp: as stored, before the picture is turned;
    notes: one sentence for each part that is dropped.
    """

    pixels: bytes
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    colour: list[Chunk] = field(default_factory=list)
    texts: list[Chunk] = field(default_factory=list)
    frames: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1..8."""
        found = exif.orientation_of(self.exif) if self.exif else None
        if found is None and self.xmp and (match := _XMP_ORIENTATION.search(self.xmp)):
            found = int(match[1])
        return found or 1

    def metadata(self) -> Metadata:
        """Metadata of the upright picture. The colour profile is still the file's own."""
        block = exif.upright(self.exif) if self.exif else None
        if self.exif and block is None:
            self.notes.append("the EXIF block is damaged and is not kept")
        if self.xmp:
            self.notes.append("XMP metadata is not kept")
        dpi = self.dpi[::-1] if self.dpi and self.orientation >= 5 else self.dpi
        return Metadata(self.icc, tuple(self.colour), block, dpi, tuple(self.texts))


def split(data: bytes, format_: str) -> Contents:
    """Split a file. GIF, BMP, WebP and AVIF stay whole; `add_info` completes them."""
    splitter = {"PNG": _png, "JPEG": _jpeg, "TIFF": _tiff, "AVIF": _avif}.get(format_, Contents)
    return splitter(data)


def add_info(contents: Contents, image: Image.Image) -> None:
    """Add the metadata Pillow read, for a format that is not split here or a PIL image."""
    if image.format in _SPLIT:
        return
    info = image.info
    contents.icc = _bytes(info.get("icc_profile"))
    block = _bytes(info.get("exif"))
    contents.exif = block and _bare_exif(block)
    contents.xmp = _bytes(info.get("xmp"))
    dpi = info.get("dpi")
    if isinstance(dpi, tuple) and len(dpi) == 2 and min(dpi) > 0:
        contents.dpi = (float(dpi[0]), float(dpi[1]))
    comment = _bytes(info.get("comment"))
    if comment:
        contents.texts.append(_comment(comment))


def _png(data: bytes) -> Contents:
    result, kept, at = Contents(data), [data[:8]], 8
    colour_type = data[25] if len(data) > 25 else 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + size
        if end > len(data):
            break
        chunk = data[at:end]
        at = end if kind != b"IEND" else len(data)
        if not kind[0] & 32:  # an upper-case letter marks a critical chunk
            kept.append(chunk)
        elif kind == b"tRNS":
            if _sound(chunk) and size == {0: 2, 2: 6, 3: min(size, 256)}.get(colour_type):
                kept.append(chunk)
            else:
                result.notes.append("the tRNS chunk is damaged; transparency is not kept")
        elif _sound(chunk):
            _png_side(result, kind, chunk[8:-4])
        else:
            result.notes.append(f"the {_printable(kind)} chunk is damaged and is not kept")
    result.pixels = b"".join([*kept, data[at:]])  # a cut-off rest is left to Pillow
    return result


def _png_side(result: Contents, kind: bytes, body: bytes) -> None:
    """Store an intact metadata chunk."""
    if kind == b"iCCP":
        result.icc = _unpacked(body.partition(b"\0")[2][1:], _LONGEST_PROFILE)
        if result.icc is None:
            result.notes.append("the colour profile is damaged; colours may look different")
    elif len(body) == COLOUR_CHUNKS.get(kind):
        if kind not in dict(result.colour):
            result.colour.append((kind, body))
    elif kind == b"eXIf":
        result.exif = _bare_exif(body)
    elif kind == b"pHYs" and len(body) == 9:
        across, down, unit = struct.unpack(">IIB", body)
        if unit == 1 and across and down:
            result.dpi = (across * 0.0254, down * 0.0254)
        elif across != down:
            result.notes.append("the shape of the pixels (pHYs) is not kept")
    elif kind == b"acTL" and len(body) == 8:
        (result.frames,) = struct.unpack(">I", body[:4])
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        _png_text(result, kind, body)
    elif kind not in _SILENT_CHUNKS:
        result.notes.append(f"the {_printable(kind)} chunk is not kept")


def _png_text(result: Contents, kind: bytes, body: bytes) -> None:
    """Store a text chunk. Those that hold EXIF or XMP are read, since they may turn the picture."""
    keyword, _, rest = body.partition(b"\0")
    if keyword == b"XML:com.adobe.xmp":
        packed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        result.xmp = (_unpacked(text, _LONGEST_TEXT) if packed else text) or b" "
    elif keyword.startswith(b"Raw profile type "):
        text = _unpacked(rest[1:], _LONGEST_TEXT) if kind == b"zTXt" else rest
        block = _hex(text or b"")
        if keyword.endswith((b" exif", b" APP1")) and block.startswith(b"Exif\0\0"):
            result.exif = result.exif or _bare_exif(block)
        else:
            result.notes.append(f"the text {keyword.decode('latin-1')!r} is not kept")
    else:
        result.texts.append((kind, body))


def _jpeg(data: bytes) -> Contents:
    result, kept, profile, at = Contents(data), [data[:2]], {}, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, (size,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in (0xDA, 0xD9) or size < 2:
            break
        segment = data[at : at + 2 + size]
        at += 2 + size
        if marker in (0xE0, 0xEE) or (marker & 0xF0 != 0xE0 and marker != 0xFE):
            kept.append(segment)
        _jpeg_side(result, marker, segment[4:], profile)
    result.pixels = b"".join([*kept, data[at:]])
    if profile:
        count = next(iter(profile.values()))[0]
        result.icc = b"".join(profile[k][1] for k in sorted(profile))
        if sorted(profile) != list(range(1, count + 1)):
            result.icc = None
            result.notes.append("the colour profile is damaged; colours may look different")
    return result


def _jpeg_side(
    result: Contents, marker: int, body: bytes, profile: dict[int, tuple[int, bytes]]
) -> None:
    """Store a metadata segment; parts of the colour profile are collected by number."""
    if marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 12:
        unit, across, down = struct.unpack_from(">BHH", body, 7)
        scale = {1: 1.0, 2: 2.54}.get(unit)
        if scale and across and down:
            result.dpi = (across * scale, down * scale)
    elif marker == 0xE1 and body.startswith(b"Exif\0"):
        result.exif = result.exif or _bare_exif(body)
    elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/"):
        result.xmp = result.xmp or body.partition(b"\0")[2]
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
        profile[body[12]] = (body[13], body[14:])
    elif marker == 0xE2 and body.startswith(b"MPF\0"):
        directory = exif.first_directory(body[4:])
        result.frames = (directory and directory.whole(0xB001)) or 1
    elif marker == 0xED:
        result.notes.append("Photoshop's data (IPTC) is not kept")
    elif marker == 0xFE:
        result.texts.append(_comment(body))


def _tiff(data: bytes) -> Contents:
    result, directory = Contents(data), exif.first_directory(data)
    if directory is None:
        return result
    result.pixels = exif.structure_only(data, directory)
    result.icc, result.xmp = directory.raw(34675), directory.raw(700)
    result.exif = exif.description_of(directory)
    result.frames = exif.pages(directory)
    across, down = directory.ratio(282), directory.ratio(283)
    scale = {None: 1.0, 2: 1.0, 3: 2.54}.get(directory.whole(296))
    if across and down and scale:
        result.dpi = (across * scale, down * scale)
    return result


def _avif(data: bytes) -> Contents:
    result, at = Contents(data), data.find(b"pixi", 0, 2**16)
    if 0 <= at < len(data) - 9 and data[at + 9] > 8:
        result.notes.append(f"{data[at + 9]}-bit channels are read with 8 bits")
    return result


def _bare_exif(block: bytes) -> bytes:
    while block.startswith(b"Exif\0"):
        block = block[6:]
    return block


def _comment(text: bytes) -> Chunk:
    """Convert another format's comment to a PNG text chunk."""
    text = text.rstrip(b"\0").replace(b"\0", b" ")
    try:
        known = text.decode("utf-8")
    except UnicodeDecodeError:
        known = text.decode("latin-1")
    return b"iTXt", b"Comment\0\0\0\0\0" + known.encode("utf-8")


def _unpacked(packed: bytes, limit: int) -> bytes | None:
    """Inflate data; None if it is damaged, empty or longer than the limit."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, limit)
    except zlib.error:
        return None
    return data if data and unpacker.eof else None


def _hex(text: bytes) -> bytes:
    """Decode ImageMagick's raw profile: a name, a length, hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _printable(kind: bytes) -> str:
    return kind.decode("latin-1") if kind.isalpha() else repr(kind)


def _bytes(value: object) -> bytes | None:
    return bytes(value) if isinstance(value, (bytes, bytearray)) and value else None
