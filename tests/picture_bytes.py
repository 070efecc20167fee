"""Picture files byte by byte, for tests: what Pillow does not write."""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageCms

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (10, 14, 3), np.uint8)
DEEP = RANDOM.integers(0, 65536, (10, 14, 3), np.uint16)
TURNS = [None, 0, 3, 1, 5, 4, 6, 2]  # Image.Transpose by orientation - 1
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image, format_="PNG", **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def colours(values, bits=8):
    return torch.from_numpy(values.astype(np.float32) / np.float32(2**bits - 1))[None]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks, image=None):
    """A PNG with further chunks behind its header."""
    data = saved(image or Image.fromarray(PIXELS))
    return (
        data[:33] + b"".join(chunk(*c) if isinstance(c, tuple) else c for c in chunks) + data[33:]
    )


def directory(tags, at, order="<", big=False):
    """An IFD at that offset from (tag, type, count, bytes), with no other behind it."""
    inline, width, layout = (8, 20, "HHQ") if big else (4, 12, "HHI")
    count, entries, values = ("Q" if big else "H"), b"", b""
    start = at + struct.calcsize(count) + width * len(tags) + inline
    for tag, kind, number, raw in sorted(tags):
        if len(raw) > inline:
            offset = struct.pack(order + ("Q" if big else "I"), start + len(values))
            raw, values = offset, values + raw
        entries += struct.pack(order + layout, tag, kind, number) + raw.ljust(inline, b"\0")
    return struct.pack(order + count, len(tags)) + entries + bytes(inline) + values


def tiff(values, *more, skip=(), order="<", big=False, packing=1, photometric=None, planes=1):
    """A single-strip TIFF of [H, W, C]; packing 1 is raw, 8 is deflate."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order))
    data = data.transpose(2, 0, 1).tobytes() if planes == 2 else data.tobytes()
    data = zlib.compress(data) if packing == 8 else data
    size = len(data) // channels if planes == 2 else len(data)
    strips = channels if planes == 2 else 1
    head = 16 if big else 8
    shorts = {
        256: width, 257: height, 259: packing, 277: channels, 278: height, 284: planes,
        262: photometric if photometric is not None else (2 if channels > 2 else 1),
    }  # fmt: skip
    tags = [(tag, 3, 1, struct.pack(order + "H", value)) for tag, value in shorts.items()]
    depth = struct.pack(order + "H", values.dtype.itemsize * 8)
    longs = struct.pack(order + f"{strips}I", *(head + k * size for k in range(strips)))
    tags += [(258, 3, channels, depth * channels), (273, 4, strips, longs)]
    tags += [(279, 4, strips, struct.pack(order + "I", size) * strips), *more]
    tags = [tag for tag in tags if tag in more or tag[0] not in skip]
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    at = head + len(data)
    mark += struct.pack(order + "HHQ", 8, 0, at) if big else struct.pack(order + "I", at)
    return mark + data + directory(tags, at, order, big)


def exif(*tags, order="<"):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", 8) + directory(tags, 8, order)


def orientation(value, order="<"):
    return (274, 3, 1, struct.pack(order + "H", value))


def jpeg(*segments, image=None):
    data = saved(image or Image.fromarray(PIXELS), "JPEG")
    parts = (struct.pack(">BBH", 255, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + b"".join(parts) + data[2:]


COLOUR = [
    (b"cICP", bytes([9, 16, 0, 1])),
    (b"gAMA", struct.pack(">I", 100000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
]
TEXTS = [(b"tEXt", b"prompt\0{}"), (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}"))]
