"""Stage `scores`: what back ends say of a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .decoding import decode_picture
from .rows import Found, Row

LACKING: Mapping[str, str] = {
    "aesthetic": "LAION's head on CLIP ViT-L/14",
    "watermark": "a watermark classifier",
    "text_area": "a text detector",
    "nsfw": "an NSFW classifier",
    "minors": "a vision-language model",
    "suitable": "a vision-language model",
    "faces": "a face detector",
}
"""Scores that every run asks for, and what can give them."""

VALUES = (*LACKING, "photo", "face_area", "objects", "toyworld")
"""Scores a threshold may be set for, whichever back end gives them."""


class Scored(Protocol):
    """values: numbers by name. raw: the model's own words, and what they cost."""

    values: Mapping[str, Any]
    raw: Mapping[str, Any]


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
    """Asks every scorer; of two that give a value, the first counts.

    A value that none gives is None: not scored. `raw` holds models' own words, by scorer.
    """

    scorers: tuple[Scorer, ...] = ()

    name = "scores"
    batch = 1

    @property
    def settings(self) -> Mapping[str, Any]:
        return {scorer.name: scorer.describe() for scorer in self.scorers}

    @property
    def missing(self) -> tuple[str, ...]:
        given = {name for scorer in self.scorers for name in scorer.gives}
        lacking = [f"{n} (needs {LACKING[n]})" for n in LACKING if n not in given]
        return (
            (f"not scored: {', '.join(lacking)}; name back ends, [scorers.NAME]",)
            if lacking
            else ()
        )

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        if not self.scorers:
            return Found(dict.fromkeys(LACKING))
        rgb = decode_picture(row.encoded()).rgb
        answers = {scorer.name: scorer.score(rgb) for scorer in self.scorers}
        values: dict[str, Any] = dict.fromkeys(LACKING)
        for answer in reversed(answers.values()):
            values |= answer.values
        raw = {name: dict(answer.raw) for name, answer in answers.items() if answer.raw}
        return Found({**values, "raw": raw} if raw else values)
