"""Scenes back from ToyWorld pictures, and edits back from its sentences: the world is closed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ...toyworld import language
from ...toyworld.success import judge, nearest_scene
from ...toyworld.world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SLOT_NAMES,
    STYLES,
    EditPair,
    Scene,
    Thing,
)  # fmt: skip

SIZES = range(64, 513, 16)
"""Sides of the pictures that are read."""
_Name = tuple[str, str | None]  # shape, and colour if it was said


def read_scene(pixels: np.ndarray) -> Scene | None:
    """The scene a picture uint8 [H, W, 3] shows by the world's own criterion, or None."""
    size = pixels.shape[0]
    if pixels.shape[1] != size or size not in SIZES:
        return None
    return _scene_in(pixels.tobytes(), size)


@lru_cache(maxsize=4)  # a judge looks at the same source for each candidate, and in both orders
def _scene_in(data: bytes, size: int) -> Scene | None:
    seen = np.frombuffer(data, np.uint8).reshape(size, size, 3).astype(np.float32) / 255
    scene = nearest_scene(seen)
    same = EditPair("style", "", (), scene, scene)
    return scene if judge(seen, same).succeeded else None


def read_edit(scene: Scene, category: str, instruction: str) -> EditPair | None:
    """The edit that a sentence of the world's language asks for in a scene, or None."""
    text = instruction.strip().lower().removesuffix(".").removeprefix("please ")
    for wording in language.WORDINGS.get(category, ()):
        match = _pattern(wording).fullmatch(text)
        if match and (target := _target(scene, category, match.groupdict())) is not None:
            return EditPair(category, instruction, (), scene, target)
    return None


def say_edit(source: Scene, target: Scene) -> str:
    """The sentence that asks for one edit from scene to scene; "" if there is none."""
    gone = [thing for thing in source.things if thing not in target.things]
    come = [thing for thing in target.things if thing not in source.things]
    old, new = (things[0] if len(things) == 1 else None for things in (gone, come))
    said = {
        "thing": old.name if old else "", "new": language.article(new.name) if new else "",
        "place": language.place(new.slot) if new else "",
        "slot": SLOT_NAMES[new.slot] if new else "", "color": new.color if new else "",
        "ground": target.background, "style": language.article(target.style),
    }  # fmt: skip
    texts = [(name, wordings[0].format(**said)) for name, wordings in language.WORDINGS.items()]
    found = ((text, read_edit(source, name, text)) for name, text in reversed(texts))
    same = (text for text, pair in found if pair and pair.target == target)
    return "" if source == target else next(same, "")


@lru_cache
def _pattern(wording: str) -> re.Pattern[str]:
    shape, color = _any(SHAPES), _any(language.ALL_COLORS)
    thing = f"(?:{color} )?{shape}"
    parts = {
        "thing": thing,
        "new": f"an? {thing}",
        "place": _any(map(language.place, range(len(SLOT_NAMES)))),
        "slot": _any(SLOT_NAMES),
        "color": color,
        "ground": _any(BACKGROUNDS),
        "style": f"an? {_any(STYLES)}",
    }
    pattern = wording.format(**{name: f"(?P<{name}>{part})" for name, part in parts.items()})
    return re.compile(pattern)


def _any(names: Iterator[str] | tuple[str, ...]) -> str:
    return f"(?:{'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})"


def _target(scene: Scene, category: str, said: Mapping[str, str]) -> Scene | None:
    """The scene after an edit; None if it names no object, several, or leaves no such scene."""
    if category == "background":
        return replace(scene, background=said["ground"])
    if category == "style":
        return replace(scene, style=said["style"].partition(" ")[2])
    things = list(scene.things)
    old = None
    if category != "add":
        if (old := _meant(scene, _name(said["thing"]))) is None:
            return None
        things.remove(old)
    if category != "remove" and (new := _new(category, old, said)) is not None:
        if new.slot in {thing.slot for thing in things}:
            return None
        things.append(new)
    return replace(scene, things=tuple(sorted(things, key=lambda thing: thing.slot)))


def _new(category: str, old: Thing | None, said: Mapping[str, str]) -> Thing | None:
    """The object an edit leaves."""
    if category in ("add", "motion"):
        slot = _slot(said)
        if category == "motion":
            return replace(old, slot=slot)
        shape, color = _name(said["new"].partition(" ")[2])
        return Thing(shape, color or COLORS[0], slot)
    if category == "color":
        return replace(old, color=said["color"])
    shape, color = _name(said["new"].partition(" ")[2])  # of replace; an unsaid colour stays
    return Thing(shape, color or old.color, old.slot)


def _meant(scene: Scene, name: _Name) -> Thing | None:
    """The one object a name fits."""
    shape, color = name
    found = [t for t in scene.things if t.shape == shape and color in (None, t.color)]
    return found[0] if len(found) == 1 else None


def _name(text: str) -> _Name:
    color, _, shape = text.rpartition(" ")
    return shape, color or None


def _slot(said: Mapping[str, str]) -> int:
    if said.get("slot"):
        return SLOT_NAMES.index(said["slot"])
    return [language.place(slot) for slot in range(len(SLOT_NAMES))].index(said["place"])
