"""Stage `scores`: what back ends say of a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .decoding import decode_picture
from .rows import Found, Row

VALUES = ("aesthetic", "watermark", "text_area", "nsfw", "suitable", "faces")
"""Scores a threshold may be set for, whichever back end gives them."""

LACKING: Mapping[str, str] = {
    "aesthetic": "LAION's head on CLIP ViT-L/14, or a judge",
    "watermark": "a watermark classifier",
    "text_area": "a text detector",
    "nsfw": "an NSFW classifier",
    "suitable": "a vision-language model",
    "faces": "a face detector",
}


class Scored(Protocol):
    """values: numbers by name."""

    values: Mapping[str, Any]


class Scorer(Protocol):
    """A back end that scores pictures, uint8 [H, W, 3]; see `backends`."""

    name: str
    gives: tuple[str, ...]

    def describe(self) -> Mapping[str, Any]:
        """All that decides its answers."""

    def score(self, pixels: np.ndarray) -> Scored:
        """Score one picture. Raises an error with a `failure`, or Unavailable."""


@dataclass(frozen=True)
class ScoreStage:
    """Asks every scorer. A value that none of them gives is None: not scored."""

    scorers: tuple[Scorer, ...] = ()

    name = "scores"
    batch = 1

    @property
    def settings(self) -> Mapping[str, Any]:
        return {scorer.name: scorer.describe() for scorer in self.scorers}

    @property
    def missing(self) -> tuple[str, ...]:
        given = {name for scorer in self.scorers for name in scorer.gives}
        lacking = [f"{n} (needs {LACKING[n]})" for n in VALUES if n not in given]
        return (
            (f"not scored: {', '.join(lacking)}; name back ends in [[scorers]]",) if lacking else ()
        )

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        values: dict[str, Any] = dict.fromkeys(VALUES)
        if self.scorers:
            rgb = decode_picture(row.encoded()).rgb
            for scorer in self.scorers:
                values |= scorer.score(rgb).values
        return Found(values)
