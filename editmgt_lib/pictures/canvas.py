"""Where a picture lies on the model's canvas, and the token ids that stand on it.

Three planes, all [row, column]: the source picture (any size), the canvas the model sees (sides
are multiples of 2 * factor, because the transformer halves the token grid once) and the token
grid (canvas / factor). A `Placement` maps one picture of a batch between them; its mapping is a
ratio of integers per axis, so that going there and back loses no pixel to rounding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_number
from ..errors import InputError
from ..files import open_tensors, write_tensors

_KIND = "tokens"  # of file


@dataclass(frozen=True)
class Placement:
    """Where one picture lies on the canvas.

    box: part of the source that was taken (top, left, bottom, right), source pixels.
    scaled: (height, width) of that part on the canvas; offset: its (top, left) corner there.
    """

    box: tuple[int, int, int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @property
    def taken(self) -> tuple[int, int]:
        """(height, width) of the box in source pixels."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def spans(self, axis: int, cells: int, factor: int) -> list[tuple[int, int]]:
        """Source pixels [start, stop) that touch each token row (axis 0) or column (axis 1).

        Any overlap counts, so neighbours may share a pixel and no pixel of the box is left out;
        a cell that lies wholly in the padding gets an empty span.
        """
        start, side = self.box[axis], self.taken[axis]
        scaled, offset = self.scaled[axis], self.offset[axis]
        spans = []
        for cell in range(cells):
            low = max((cell * factor - offset) * side // scaled, 0)
            high = min(-((offset - (cell + 1) * factor) * side // scaled), side)
            spans.append((start + low, start + high) if low < high else (start, start))
        return spans

    def place(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """Source colours [H, W, 3] -> canvas [1, 3, *size]; only copied where the scale is 1."""
        top, left, bottom, right = self.box
        taken = picture[top:bottom, left:right].permute(2, 0, 1)[None]
        above, before = self.offset
        below = size[0] - self.scaled[0] - above
        after = size[1] - self.scaled[1] - before
        padding = (before, after, above, below)
        return F.pad(_resample(taken, self.scaled), padding, mode="replicate")

    def restore(self, plane: Tensor) -> Tensor:
        """Canvas values [h, w] -> the same at source resolution, [box height, box width]."""
        (top, left), (height, width) = self.offset, self.scaled
        plane = plane[top : top + height, left : left + width]
        return _resample(plane[None, None], self.taken)[0, 0]


@dataclass(frozen=True, eq=False)
class Canvas:
    """What `fit` did to a batch, and what `composite` needs to undo it.

    height, width: source size; size: (height, width) of the canvas; factor: pixels per token;
    placements: one per picture; source: pixels [B, H, W, C] float32 as given (never written to,
    not copied either: do not change the tensor you passed in), None for a generated picture.
    """

    height: int
    width: int
    size: tuple[int, int]
    factor: int
    placements: tuple[Placement, ...]
    source: Tensor | None = field(default=None, repr=False)

    @classmethod
    def blank(cls, batch: int, height: int, width: int, factor: int = 16) -> Canvas:
        """Canvas of a picture still to be generated; sides are multiples of 2 * factor."""
        require_number("batch", batch, 1, 4096, whole=True)
        require_number("factor", factor, 1, 64, whole=True)
        for name, side in (("height", height), ("width", width)):
            require_number(name, side, 2 * factor, 8192, whole=True)
            if side % (2 * factor):
                raise InputError(f"{name} is {side}; use a multiple of {2 * factor}")
        whole = Placement((0, 0, height, width), (height, width), (0, 0))
        return cls(height, width, (height, width), factor, (whole,) * batch)

    @property
    def batch(self) -> int:
        return len(self.placements)

    def item(self, k: int) -> Canvas:
        """Picture k alone, as a view; IndexError if there is none."""
        k = range(self.batch)[k]
        source = None if self.source is None else self.source[k : k + 1]
        return replace(self, placements=(self.placements[k],), source=source)

    @property
    def rows(self) -> int:
        return self.size[0] // self.factor

    @property
    def cols(self) -> int:
        return self.size[1] // self.factor

    @property
    def covered(self) -> Tensor:
        """Tokens that touch the picture, bool [B, rows, cols]; the others are padding."""
        plain = {"dtype": torch.bool, "device": "cpu"}
        covered = torch.zeros(self.batch, self.rows, self.cols, **plain)
        for item, where in enumerate(self.placements):
            rows, cols = (
                [low < high for low, high in where.spans(axis, cells, self.factor)]
                for axis, cells in enumerate((self.rows, self.cols))
            )
            covered[item] = torch.tensor(rows, **plain)[:, None] & torch.tensor(cols, **plain)
        return covered

    def __repr__(self) -> str:
        kind = "picture" if self.source is not None else "blank"
        return (
            f"Canvas({self.batch} x {kind} {self.height}x{self.width} -> "
            f"{self.size[0]}x{self.size[1]}, {self.rows}x{self.cols} tokens)"
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of a batch and the canvas they came from.

    ids: int64 [B, rows, cols]; source_ids: the ids of the untouched source picture (None: no
    source), kept along a chain of edits, so that one final decode knows all that changed.
    notes: what the user should know about the picture.
    Raises InputError where a shape or a dtype does not match the canvas.
    """

    ids: Tensor
    canvas: Canvas
    source_ids: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (self.canvas.batch, self.canvas.rows, self.canvas.cols)
        for name, ids in (("ids", self.ids), ("source_ids", self.source_ids)):
            if ids is None and name == "source_ids":
                continue
            if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != expected:
                got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)
                raise InputError(f"token {name} are {got}; the canvas needs int64 {expected}")

    @classmethod
    def blank(cls, canvas: Canvas, mask_id: int) -> Tokens:
        """Tokens that are all masked, of no picture."""
        shape = (canvas.batch, canvas.rows, canvas.cols)
        return cls(torch.full(shape, mask_id, dtype=torch.int64, device="cpu"), canvas)

    @property
    def changed(self) -> Tensor:
        """bool [B, rows, cols]: the tokens that differ from the source picture (all without)."""
        if self.source_ids is None:
            return torch.ones_like(self.ids, dtype=torch.bool)
        return self.ids != self.source_ids.to(self.ids.device)

    def item(self, k: int) -> Tokens:
        """Picture k alone, as views; IndexError if there is none."""
        k = range(self.canvas.batch)[k]
        source = None if self.source_ids is None else self.source_ids[k : k + 1]
        return Tokens(self.ids[k : k + 1], self.canvas.item(k), source, self.notes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file with all that `decode` and a further edit need.

        That includes the source picture, in float32. Raises InputError when the place cannot be
        written; an older file then stays as it was.
        """
        canvas = self.canvas
        tensors = {"ids": self.ids, "source_ids": self.source_ids, "source": canvas.source}
        plain = {name: getattr(canvas, name) for name in ("height", "width", "size", "factor")}
        plain["placements"] = [(p.box, p.scaled, p.offset) for p in canvas.placements]
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        write_tensors(path, given, _KIND, {**plain, "notes": self.notes})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read what `save` wrote, onto the CPU. Raises InputError for any other file."""
        with open_tensors(path, _KIND) as (tensors, plain):
            notes, source = tuple(plain.pop("notes")), tensors.pop("source", None)
            placements = tuple(
                Placement(*map(tuple, placement)) for placement in plain.pop("placements")
            )
            plain["size"] = tuple(plain["size"])
            canvas = Canvas(**plain, placements=placements, source=source)
            return cls(**tensors, canvas=canvas, notes=notes)

    def with_ids(self, ids: Tensor) -> Tokens:
        """The same canvas and source with other ids: the result of one more edit."""
        return replace(self, ids=ids)

    def __repr__(self) -> str:
        known = "with" if self.source_ids is not None else "without"
        return f"Tokens({self.canvas.batch}x{self.canvas.rows}x{self.canvas.cols}, {known} source)"


def _resample(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, h, w] -> [N, C, *size]; the same values where the size already is."""
    if tuple(planes.shape[-2:]) == tuple(size):
        return planes
    resized = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return resized.clamp_(0, 1)  # bicubic overshoots
