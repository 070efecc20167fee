"""The embedded default: ToyWorld writes, judges and scores by what it knows exactly.

A stand-in, so that the whole pipeline runs offline; nothing it makes is a curated set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from ...data.draws import draws
from ...toyworld.drawing import GRID, slot_box
from ...toyworld.success import Verdict, judge
from ...toyworld.world import (
    EditPair,
    Scene,
    caption,
    edit_scene,
    fits,
    is_heldout,
    render,
    sample_scene,
)  # fmt: skip
from .base import CATEGORIES, NO_WISHES, Answer, NoAnswer, Pixels
from .toyworld_reading import read_edit, read_scene, say_edit

OWN_NAMES: Mapping[str, str] = {
    "background change": "background", "motion change": "motion",
    **{name: name for name in CATEGORIES if " " not in name},
}  # fmt: skip
"""ToyWorld's name of each category."""
_TRIES = 20  # draws of an edit whose target is not held out


@dataclass(frozen=True)
class ToyOptions:
    """There is nothing to choose."""


def toy_picture(number: int, size: int = 256, seed: int = 0) -> bytes:
    """Picture of a number as a PNG: a plain scene that is not held out."""
    from PIL import Image

    scene = sample_scene(draws(seed, number, "curation scene"))
    file = BytesIO()
    Image.fromarray(render(scene, size)).save(file, "PNG")
    return file.getvalue()


class _Toy:
    """What the roles share."""

    revision = "toyworld"

    def __init__(self, name: str, options: ToyOptions | None = None) -> None:
        self.name = name

    def check(self) -> None:
        """Lacks nothing."""

    def describe(self) -> dict[str, Any]:
        """It is its code."""
        return {"kind": "toyworld"}

    def _scene(self, pixels: Pixels) -> Scene:
        scene = read_scene(pixels)
        if scene is None:
            raise NoAnswer("not_toyworld", f"{self.name} reads ToyWorld's own pictures alone")
        return scene


class ToyWriter(_Toy):
    """Describes scenes and draws edits of them in the world's language."""

    def caption(self, pixels: Pixels, seed: int = 0) -> Answer:
        """See `Writer`."""
        from ...toyworld.language import SLOT_NAMES

        scene = self._scene(pixels)
        objects = [{"name": t.name, "count": 1, "where": SLOT_NAMES[t.slot]} for t in scene.things]
        text = caption(scene, draws(seed, 0, "curation caption")) if objects else "nothing"
        return Answer({"caption": text, "objects": objects})

    def write(
        self,
        caption: Mapping[str, Any],
        counts: Mapping[str, int],
        seed: int,
        pixels: Pixels | None = None,
        faults: Sequence[Mapping[str, str]] = (),
        wishes: Mapping[str, Mapping[str, str]] = NO_WISHES,
    ) -> Answer:
        """See `Writer`. Needs the picture, repeats no refused instruction, draws words evenly."""
        if pixels is None:
            raise NoAnswer("no_picture", f"{self.name} writes from the picture, not from a caption")
        scene = self._scene(pixels)
        refused = {fault["instruction"] for fault in faults}
        written = []
        for category in CATEGORIES:
            rng = draws(seed, len(faults), f"curation {category}")
            for _ in range(counts.get(category, 0)):
                if (pair := _edit(rng, scene, OWN_NAMES[category], refused)) is not None:
                    refused.add(pair.instruction)
                    written.append(_written(category, pair, rng))
        return Answer({"instructions": written})

    def rewrite(
        self, before: Pixels, after: Pixels, instruction: str, category: str, seed: int = 0
    ) -> Answer:
        """See `Writer`; of one edit that left nothing but a scene of this world."""
        source = self._scene(before)
        asked = read_edit(source, OWN_NAMES.get(category, category), instruction)
        if asked and after.shape == before.shape and judge(_unit(after), asked).succeeded:
            return Answer({"instruction": instruction})
        target = read_scene(after)
        return Answer({"instruction": say_edit(source, target) if target else ""})


class ToyJudge(_Toy):
    """The exact criterion: success first, then fewer faults."""

    def compare(
        self, before: Pixels, first: Pixels, second: Pixels, instruction: str, category: str
    ) -> Answer:
        """See `Judge`."""
        one, other = (
            len(self._verdict(before, after, instruction, category)[0].faults)
            for after in (first, second)
        )
        better = "tie" if one == other else "first" if one < other else "second"
        return Answer({"better": better}, {"faults": [one, other]})

    def rate(self, before: Pixels, after: Pixels, instruction: str, category: str) -> Answer:
        """See `Judge`; 10 or 0 each."""
        verdict, pair = self._verdict(before, after, instruction, category)
        whole = pair.category in ("background", "style")
        about = {"ground"} if whole else {"edited"}
        failed = [fault.kind in about for fault in verdict.faults]
        values = {
            "instruction": 0 if any(failed) else 10,
            "preservation": 0 if not all(failed) else 10,
            "quality": 10 if verdict.succeeded else 0,
        }
        return Answer(values, {"faults": [str(fault) for fault in verdict.faults]})

    def _verdict(
        self, before: Pixels, after: Pixels, instruction: str, category: str
    ) -> tuple[Verdict, EditPair]:
        scene = self._scene(before)
        pair = read_edit(scene, OWN_NAMES.get(category, category), instruction)
        if pair is None:
            raise NoAnswer("not_toyworld", f"{self.name} does not understand {instruction!r}")
        if after.shape != before.shape:
            raise NoAnswer("size", f"{self.name} got a result of another size")
        return judge(_unit(after), pair), pair


class ToyScorer(_Toy):
    """Whether a picture is of this world, and how many objects it shows."""

    gives = ("toyworld", "objects")

    def score(self, pixels: Pixels) -> Answer:
        """See `Scorer`."""
        scene = read_scene(pixels)
        return Answer({"toyworld": int(scene is not None), "objects": len(scene.things)
                       if scene else 0})  # fmt: skip


def _unit(pixels: Pixels) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def _edit(
    rng: np.random.Generator, scene: Scene, category: str, refused: set[str]
) -> EditPair | None:
    """A new edit whose target is not held out, so that pairs may train a model."""
    if not fits(scene, category):
        return None
    for _ in range(_TRIES):
        pair = edit_scene(rng, scene, category)
        if pair.instruction not in refused and not is_heldout(pair.target):
            return pair
    return None


def _written(category: str, pair: EditPair, rng: np.random.Generator) -> dict[str, Any]:
    added = [thing.name for thing in pair.target.things if thing not in pair.source.things]
    gone = [thing.slot for thing in pair.source.things if thing not in pair.target.things]
    about = {"style": "picture", "background change": "background"}
    about["add"] = added[0] if added else ""
    after = caption(pair.target, rng) if pair.target.things else "nothing"
    return {
        "category": category,
        "instruction": pair.instruction,
        "object": about.get(category) or pair.words[0],
        "caption": after,
        **({"box": _box(gone[0])} if gone else {}),
    }


def _box(slot: int) -> list[float]:
    """Left, top, right, bottom of a slot as fractions."""
    top, bottom, left, right = slot_box(slot, GRID * 4)
    return [side / (GRID * 4) for side in (left, top, right, bottom)]
