"""Random draws keyed by (seed, number, purpose), never by process or by order of calls.

So one sample is the same in any batch, on any number of processes, and after any resume.
"""

import zlib

import numpy as np


def draws(seed: int, number: int, purpose: str) -> np.random.Generator:
    """Generator of one purpose ("order", "crop", "mask", ...) for one sample, step or epoch."""
    return np.random.default_rng([seed, number, zlib.crc32(purpose.encode())])
