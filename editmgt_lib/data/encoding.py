"""Rows to records: token ids, crops, micro-conditions and pooled text, as the cache keeps them."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_number
from ..errors import InputError
from ..models.vq import VQModel
from ..offload import execution_device, onloaded
from ..pictures.images import read_image
from ..text.pooled import PooledText
from .crops import VERSION, Crop, aspect_difference, draw_crop
from .draws import draws
from .fingerprints import text_fingerprint, tokenizer_fingerprint
from .rows import Row, Skipped

DIGEST = 16  # bytes
MOST_CODES = 2**16  # ids are kept in 16 bits


@dataclass(frozen=True)
class EncodingOptions:
    """How pictures become tokens. Raises InputError.

    Attributes:
        size: side in pixels of the square the network sees.
        crops: crops of each row; an epoch takes the next one.
        seed: of the crops.
        aspect: largest relative difference of a pair's aspects; rows beyond it are skipped.
    """

    size: int
    crops: int = 1
    seed: int = 0
    aspect: float = 0.05

    def __post_init__(self) -> None:
        require_number("size", self.size, 1, 8192, whole=True)
        require_number("crops", self.crops, 1, 64, whole=True)
        require_number("seed", self.seed, 0, whole=True)
        require_number("aspect", self.aspect, 0, 10)


@dataclass(frozen=True, repr=False)
class Cropped:
    """A row whose pictures are read and cropped.

    pictures: target, and source if there is one, each [crops, 3, size, size].
    """

    row: Row
    digest: bytes
    crops: tuple[Crop, ...]
    pictures: tuple[Tensor, ...]


class Encoder:
    """Encodes rows, each by itself, so that a record does not depend on the others.

    Args:
        text: for the pooled text; None leaves it out.

    Raises:
        InputError: a size that is no multiple of the token's, or too many codes for 16 bits.
    """

    def __init__(
        self, options: EncodingOptions, vq: VQModel, text: PooledText | None = None
    ) -> None:
        self.options, self.vq, self.text = options, vq, text
        config = vq.config
        if options.size % (2 * config.factor):
            raise InputError(
                f"size is {options.size}; use a multiple of {2 * config.factor} (two tokens)"
            )
        if config.num_vq_embeddings > MOST_CODES:
            raise InputError(f"{config.num_vq_embeddings} codes do not fit 16 bits")
        self.grid = options.size // config.factor

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the records of a row: equal settings, equal records."""
        return {"transform": VERSION, **asdict(self.options), "grid": self.grid,
                "tokenizer": tokenizer_fingerprint(self.vq), "pooled": self.pooled,
                "text": text_of(self.text)}  # fmt: skip

    @property
    def pooled(self) -> int:
        """Width of the pooled text, 0 without."""
        return 0 if self.text is None else self.text.width

    def record_type(self, edits: bool) -> np.dtype:
        """Layout of a record."""
        return record_type(edits, self.options.crops, self.grid, self.pooled)

    def crop(self, row: Row) -> Cropped | Skipped:
        """Read a row's pictures and cut out its crops."""
        sources = [row.target] if row.source is None else [row.target, row.source]
        total = hashlib.sha256(row.prompt.encode())
        pictures = []
        for what, encoded in zip(("target", "source"), sources, strict=False):
            try:
                data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
                pictures.append(read_image(data).pixels[0])
            except (InputError, OSError) as error:
                return Skipped(row.id, "picture cannot be read", f"{what}: {error}")
            total.update(len(data).to_bytes(8, "big") + data)
        difference = aspect_difference(pictures[0], pictures[-1])
        if difference > self.options.aspect:
            detail = " and ".join("{1}x{0}".format(*p.shape) for p in pictures)
            return Skipped(row.id, "aspects of the pair differ", detail)
        o, (height, width) = self.options, pictures[0].shape[:2]
        crops = tuple(
            draw_crop(height, width, draws(o.seed, row.key, f"crop {k}")) for k in range(o.crops)
        )
        taken = tuple(torch.stack([c.take(p, o.size) for c in crops]) for p in pictures)
        return Cropped(row, total.digest()[:DIGEST], crops, taken)

    def encode(self, cropped: Cropped) -> np.ndarray:
        """Encode a row: a structured scalar [] of `record_type`."""
        record = np.zeros((), self.record_type(len(cropped.pictures) > 1))
        for name, pictures in zip(("target", "source"), cropped.pictures, strict=False):
            record[name] = self._ids(pictures)
        record["micro"] = [crop.micro_conditions(self.options.size) for crop in cropped.crops]
        record["crop"] = [crop.relative for crop in cropped.crops]
        record["digest"] = np.frombuffer(cropped.digest, np.uint8)
        if self.text is not None:
            record["pooled"] = self.text.encode([cropped.row.prompt])[0].cpu().numpy()
        return record

    def _ids(self, pictures: Tensor) -> np.ndarray:
        device = execution_device(self.vq)
        with onloaded(self.vq):
            ids = [self.vq.encode(picture[None].to(device)) for picture in pictures]
        return torch.cat(ids).cpu().numpy()


def text_of(text: PooledText | None) -> str:
    """Fingerprint of what makes the pooled text; empty without."""
    return "" if text is None else text_fingerprint(text.clip)


def record_type(edits: bool, crops: int, grid: int, pooled: int) -> np.dtype:
    """Layout of a row in the cache: `crops` crops of grid x grid tokens, `pooled` text features."""
    ids = ("<u2", (crops, grid, grid))
    fields = [("target", *ids), *([("source", *ids)] if edits else [])]
    fields += [("micro", "<f4", (crops, 5)), ("crop", "<f4", (crops, 4))]
    fields += [("digest", "u1", (DIGEST,)), ("pooled", "<f4", (pooled,))]
    return np.dtype(fields)


def crop_all(
    encoder: Encoder, rows: Iterable[Row | Skipped], workers: int
) -> Iterator[Cropped | Skipped]:
    """Crop rows in order, `workers` at a time, at most a few ahead of what is asked for."""

    def work(row: Row | Skipped) -> Cropped | Skipped:
        return row if isinstance(row, Skipped) else encoder.crop(row)

    rows = iter(rows)
    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(work, row) for row in islice(rows, 2 * workers)]
        while ahead:
            done = ahead.pop(0).result()
            ahead += [pool.submit(work, row) for row in islice(rows, 1)]
            yield done
