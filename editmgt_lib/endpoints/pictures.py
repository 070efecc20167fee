"""Pictures in requests, and fingerprints of their pixels."""

import hashlib
from base64 import b64encode
from io import BytesIO

import numpy as np


def fingerprint(pixels: np.ndarray) -> str:
    """Digest of size and pixels: unlike that of a file, the same whatever wrote the file."""
    total = hashlib.sha256(repr(pixels.shape).encode())
    total.update(pixels.tobytes())
    return total.hexdigest()


def data_uri(pixels: np.ndarray, encoding: str) -> str:
    """Encode uint8 [H, W, 3] for a request, as "png" or "jpeg75"."""
    kind = {"png": "png", "jpeg75": "jpeg"}[encoding]
    return f"data:image/{kind};base64,{b64encode(encoded(pixels, kind)).decode()}"


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    """A file's content, "png" or "jpeg" of quality 75."""
    from PIL import Image

    file = BytesIO()
    settings = {"quality": 75} if kind == "jpeg" else {}
    Image.fromarray(pixels).save(file, kind.upper(), **settings)
    return file.getvalue()
