"""Stage `quality`: what became of an edit, measured, embedded, and rated by a judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..checks import require_choice, require_number
from ..endpoints.pictures import encoded
from .alignment import Alignment, align
from .backends.base import RUBRIC, Judge, NoAnswer, Pixels, Writer, seed_of
from .backends.sizes import resized
from .changes import (
    Box,
    difference,
    drift,
    isolated,
    outside_of,
    place_of,
    regions,
    strongest,
)
from .decoding import decode_picture
from .embeddings import CLIP_VALUES, DINO_VALUES, Embedder
from .pixels import DIGITS, grey
from .rows import Failure, Found, Row

VERSION = 1  # of the measures; other values for the same pair need another number
ALIGNED = {
    "moved": 2,
    "shift_x": 2,
    "shift_y": 2,
    "zoom": 4,
    "zoom_x": 4,
    "zoom_y": 4,
    "match": 3,
    "residual": 1,
}
"""Values of `Alignment`, and their digits; more would differ between processors."""
VALUES = (
    "stretch", "changed", "components", "largest", "isolated", "noop", "strongest", "drift",
    "outside", *ALIGNED,
    *CLIP_VALUES, *DINO_VALUES, *RUBRIC,
)  # fmt: skip
"""Numbers a threshold may be set for."""
WHOLE = ("background change", "style")
"""Categories that change the picture everywhere: nothing is outside the edit."""
_IN_PLACE = ("remove", "replace", "color")  # others act where the object is not yet


@dataclass(frozen=True)
class QualityOptions:
    """How pairs are measured. Raises InputError.

    Attributes:
        tolerance: levels 0..255 that a channel of a pixel may differ by and count as unchanged.
        visible: levels that the mean of 8 x 8 pixels must change by, or nothing was edited.
        judge: name of the one that rates, "" for the first. rewriter: name of the writer that says
            what really happened, "" for nobody.
        clip, dino: folders of networks, see `Embedder`. device: theirs.
    """

    tolerance: int = 30
    visible: int = 15
    judge: str = ""
    rewriter: str = ""
    clip: str = ""
    dino: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_number("quality.tolerance", self.tolerance, 0, 254, whole=True)
        require_number("quality.visible", self.visible, 0, 255, whole=True)


@dataclass(frozen=True)
class QualityStage:
    """Measures the pair of a picture and its edit; see `measure` for the values without a model.

    Besides `VALUES`: place, rewritten, and `raw`, models' own words. Pictures: mask, what changed,
    0 or 255. A value that nobody can give is None. Where the judge does not answer the row fails,
    and keeps what was measured.
    """

    options: QualityOptions = QualityOptions()
    judge: Judge | None = None
    rewriter: Writer | None = None

    name = "quality"
    batch = 1

    @classmethod
    def of(
        cls, options: QualityOptions, judges: Mapping[str, Judge], writers: Mapping[str, Writer]
    ) -> "QualityStage":
        """With the back ends that the options name. Raises InputError for one that is not there."""
        if options.judge:
            require_choice("quality.judge", options.judge, tuple(judges))
        if options.rewriter:
            require_choice("quality.rewriter", options.rewriter, tuple(writers))
        judge = judges[options.judge] if options.judge else next(iter(judges.values()), None)
        stage = cls(options, judge, writers.get(options.rewriter))
        stage.embedder.check()
        return stage

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder(self.options.clip, self.options.dino, self.options.device)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.options
        return {
            "version": VERSION, "tolerance": options.tolerance, "visible": options.visible,
            "judge": self.judge.describe() if self.judge else None,
            "rewriter": self.rewriter.describe() if self.rewriter else None,
            **self.embedder.describe(),
        }  # fmt: skip

    @property
    def missing(self) -> tuple[str, ...]:
        wanted = (
            (CLIP_VALUES, self.options.clip, "CLIP, [quality] clip"),
            (DINO_VALUES, self.options.dino, "DINO, [quality] dino"),
            (RUBRIC, self.judge, "a judge, [judges.NAME]"),
        )
        lacking = [f"{', '.join(names)} (needs {what})" for names, given, what in wanted
                   if not given]  # fmt: skip
        return (f"pairs are not scored for: {'; '.join(lacking)}",) if lacking else ()

    def expect(self, rows: int) -> tuple[str, int]:
        """Work on so many edits, and the rows it leaves."""
        asked = [f"{rows:,} ratings"] if self.judge else []
        asked += [f"at most {rows:,} rewritten instructions"] if self.rewriter else []
        return ", ".join(asked) or "no model asked", rows

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        before, after = (decode_picture(row.encoded(name)).rgb for name in ("", "edits.edited"))
        values: dict[str, Any] = {"stretch": stretch(before, after)}
        before = resized(before, (after.shape[1], after.shape[0]))
        about = {name: row.value(f"instructions.{name}") or "" for name in
                 ("category", "instruction", "caption", "target_caption")}  # fmt: skip
        category = about["category"]
        box = row.value("instructions.box") if category in _IN_PLACE else None
        measured, changed = measure(before, after, category, self.options, box)
        embedded = self.embedder.measure(before, after, about["caption"], about["target_caption"])
        if category in WHOLE:
            embedded["clip_image"] = None  # another picture is what was asked for
        values |= {**measured, **embedded, **dict.fromkeys(RUBRIC), "rewritten": ""}
        pictures, raw = {"mask": encoded(changed.astype(np.uint8) * 255)}, {}
        failure = self._ask(row, before, after, about, values, raw)
        return Found({**values, "raw": raw} if raw else values, pictures, failure)

    def _ask(
        self,
        row: Row,
        before: Pixels,
        after: Pixels,
        about: Mapping[str, str],
        values: dict[str, Any],
        raw: dict[str, Any],
    ) -> Failure | None:
        """Put into values and raw what judge and rewriter say; the failure if one may yet."""
        pair = (before, after, about["instruction"], about["category"])
        try:
            if self.judge is not None:
                rated = self.judge.rate(*pair)
                values |= {name: rated.values[name] for name in RUBRIC}
                raw["judge"] = dict(rated.raw)
        except NoAnswer as error:
            return error.failure
        if self.rewriter is None or values["noop"]:
            return None
        try:
            told = self.rewriter.rewrite(*pair, seed_of(0, row.id, self.rewriter.name))
        except NoAnswer as error:  # the pair is good without it
            raw["rewriter"] = {"failure": error.failure.code, "detail": error.failure.detail}
            return None if error.failure.lasting else error.failure
        values["rewritten"] = told.values["instruction"]
        raw["rewriter"] = dict(told.raw)
        return None


def measure(
    before: Pixels,
    after: Pixels,
    category: str,
    options: QualityOptions = QualityOptions(),
    box: Sequence[float] | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Values without a model, and the mask of what changed, bool [H, W].

    Args:
        before, after: of one size.
        box: of the object meant: left, top, right, bottom as fractions of the sides.

    Values: changed (share of pixels), components, largest and isolated (shares of the changed
    pixels), strongest (see there), noop (1: nothing to be seen), place ("box"; "regions": the
    largest ones; "" where nothing is outside), outside (share of the pixels outside the place that
    changed), drift (of their light, in levels; of all pixels where there is no place), and those
    of `Alignment`.
    """
    changed = difference(before, after) > options.tolerance
    found = regions(changed)
    number, whole = int(found.areas.sum()), category in WHOLE
    most = strongest(before, after)
    noop = most <= options.visible
    rest = None  # of the picture, which should have stayed
    if not whole and not noop:
        place = [_pixels(box, changed.shape)] if box else place_of(found)
        rest = outside_of(place, changed.shape)
    lumas = grey(before), grey(after)
    values = {
        "changed": round(number / changed.size, DIGITS), "components": len(found.areas),
        "largest": None if whole or not number else round(found.largest / number, DIGITS),
        "isolated": round(isolated(changed) / number, DIGITS) if number else None,
        "noop": int(noop), "strongest": most, "drift": None if whole else drift(*lumas, rest),
        "outside": None if rest is None else round(float(changed[rest].mean()), DIGITS),
        "place": "" if rest is None else "box" if box else "regions",
    }  # fmt: skip
    return values | _aligned(align(*lumas)), changed


def stretch(before: Pixels, after: Pixels) -> float:
    """Difference of the aspects of two pictures, as a fraction."""
    (height, width), (other_height, other_width) = before.shape[:2], after.shape[:2]
    one, other = width * other_height, other_width * height
    return round(abs(one - other) / max(one, other), DIGITS)


def _aligned(found: Alignment | None) -> dict[str, float | None]:
    if found is None:
        return dict.fromkeys(ALIGNED)
    return {name: round(getattr(found, name), digits) + 0.0 for name, digits in ALIGNED.items()}


def _pixels(box: Sequence[float], shape: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    height, width = shape
    return (
        math.floor(top * height), math.ceil(bottom * height),
        math.floor(left * width), math.ceil(right * width),
    )  # fmt: skip
