"""The perceptual hash pHash, in whole numbers: every processor gives the same bits."""

import numpy as np

SIDE, KEPT = 32, 8
_SCALE = 1 << 20
# DCT-II of 32 samples, its 8 lowest frequencies.
_COSINES = np.rint(
    _SCALE * np.cos(np.pi * np.outer(np.arange(KEPT), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
).astype(np.int64)


def phashes(luma: np.ndarray) -> tuple[int, int]:
    """64-bit pHash of uint8 [H, W], and that of its mirror image.

    Bits as in the package ImageHash: the 8 x 8 lowest frequencies of a 32 x 32 thumbnail, each
    above their median or not, the first in the highest bit.
    """
    from PIL import Image

    small = Image.fromarray(luma).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    frequencies = _COSINES @ np.asarray(small).astype(np.int64) @ _COSINES.T
    mirrored = frequencies * np.where(np.arange(KEPT) % 2, -1, 1)
    return _bits(frequencies), _bits(mirrored)


def _bits(frequencies: np.ndarray) -> int:
    values = frequencies.ravel()
    middle = np.sort(values)[values.size // 2 - 1 : values.size // 2 + 1]
    above = values > middle[0] + (middle[1] - middle[0]) / 2
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def distances(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which uint64 hashes differ."""
    different = np.bitwise_xor(hashes, other)
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different)
    octets = different[..., None].view(np.uint8)
    return np.unpackbits(octets, axis=-1).sum(-1, dtype=np.uint8)
