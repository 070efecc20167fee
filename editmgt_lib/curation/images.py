"""Stage `images`: what a picture is like, as far as no model is needed to say."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from . import pixels
from .decoding import decode_picture
from .hashing import phashes
from .rows import Failure, Found, Row

VERSION = 1  # of the scores; other values for the same picture need another number

VALUES = (
    "bytes", "width", "height", "short_side", "aspect", "bits", "frames", "transparent", "trailing",
    "entropy", "spread", "darkest", "brightest", "edges", "sharpness", "colours",
)  # fmt: skip
"""Numbers a threshold may be set for."""


@dataclass(frozen=True)
class ImageStage:
    """Decodes and measures the original; a picture that cannot be decoded fails, with the reason.

    Besides `VALUES`: sha256 of the file and `pixels` of its upright RGB pixels, format, mode,
    phash and phash_mirrored in hexadecimal.
    """

    name = "images"
    batch = 1
    missing = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"version": VERSION}

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [_found(row) for row in rows]


def _found(row: Row) -> Found:
    try:
        data = row.encoded()
    except InputError as error:
        return Found(failure=Failure("missing_file", str(error), lasting=False))
    file = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        return Found(file | measure(data))
    except InputError as error:
        return Found(file, failure=Failure("unreadable", str(error)))


def measure(data: bytes) -> dict[str, Any]:
    """Measure an encoded picture. Raises InputError if it cannot be decoded."""
    decoded = decode_picture(data)
    rgb = decoded.rgb
    height, width = rgb.shape[:2]
    luma = pixels.grey(rgb)
    differences = pixels.laplacian(luma)
    counts = pixels.histogram(luma)
    darkest, brightest = pixels.levels(counts)
    phash, mirrored = phashes(luma)
    return {
        "pixels": hashlib.sha256(rgb.reshape(-1)).hexdigest(),
        "width": width,
        "height": height,
        "short_side": min(width, height),
        "aspect": round(max(width, height) / min(width, height), 6),
        "format": decoded.format,
        "mode": decoded.mode,
        "bits": decoded.bits,
        "frames": decoded.frames,
        "transparent": round(decoded.transparent, 6),
        "trailing": decoded.trailing,
        "entropy": pixels.entropy(counts),
        "spread": pixels.spread(counts),
        "darkest": darkest,
        "brightest": brightest,
        "edges": pixels.edges(differences),
        "sharpness": pixels.sharpness(differences),
        "colours": pixels.colours(rgb),
        "phash": f"{phash:016x}",
        "phash_mirrored": f"{mirrored:016x}",
    }
