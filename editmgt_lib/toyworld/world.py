"""ToyWorld: random scenes, edit pairs and captions, each determined by its generator.

The seven edit categories are those of CrispEdit-2M: add, replace, remove, color, background, style
and motion. Import from here; pictures are drawn by `scenes` and `drawing`, sentences by `language`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as with_
from typing import TypeVar

import numpy as np

from ..errors import InputError
from . import language
from .drawing import slot_box, thing_mask
from .language import BACKGROUNDS, CATEGORIES, COLORS, SHAPES, SLOT_NAMES, STYLES
from .scenes import TEXTURES, EditPair, Scene, Thing, change_mask, is_heldout, render

__all__ = [
    "BACKGROUNDS", "CATEGORIES", "COLORS", "SHAPES", "SLOT_NAMES", "STYLES",
    "EditPair", "Scene", "Thing",
    "caption", "change_mask", "edit_scene", "fits", "in_spare_color", "is_heldout", "pair_at",
    "render", "sample_pair", "sample_scene", "slot_box", "thing_mask", "with_bystander",
]  # fmt: skip

T = TypeVar("T")
VERSION = 2
"""Rises when the same numbers draw other pictures or sentences, so that no old cache is taken."""
COUNT_WEIGHTS = {1: 0.15, 2: 0.30, 3: 0.30, 4: 0.25}
"""How often a scene has so many objects."""
SHAPE_ONLY = 0.25
"""How often an object whose shape is unique in the scene is named without its colour."""
_COUNTS = {"add": (1, 2, 3), "remove": (2, 3, 4)}  # the other categories take any scene
_PLEASE, _PERIOD = 0.06, 0.10


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _pick_count(rng: np.random.Generator, counts: Sequence[int]) -> int:
    point = rng.random() * sum(COUNT_WEIGHTS[count] for count in counts)
    for count in counts:
        point -= COUNT_WEIGHTS[count]
        if point < 0:
            return count
    return counts[-1]


def _any_scene(rng: np.random.Generator, count: int) -> Scene:
    slots = sorted(int(slot) for slot in rng.permutation(len(SLOT_NAMES))[:count])
    codes: dict[int, None] = {}  # distinct (shape, colour) pairs, in the order drawn
    while len(codes) < count:
        codes[int(rng.integers(len(SHAPES) * len(COLORS)))] = None
    things = tuple(
        Thing(SHAPES[code % len(SHAPES)], COLORS[code // len(SHAPES)], slot)
        for code, slot in zip(codes, slots, strict=True)
    )
    return Scene(things, _pick(rng, BACKGROUNDS), texture=int(rng.integers(TEXTURES)))


def sample_scene(
    rng: np.random.Generator, *, count: int | None = None, heldout: bool = False
) -> Scene:
    """A plain scene of 1..4 objects, no two of the same shape and colour.

    heldout: draw from the held-out split instead of the training split; the two never share a
    scene. count: number of objects, 1..4 (InputError otherwise); None draws it (COUNT_WEIGHTS).
    """
    if count is not None and count not in COUNT_WEIGHTS:
        raise InputError(f"count is {count!r}; give a whole number from 1 to 4")
    return _sample_scene(rng, tuple(COUNT_WEIGHTS) if count is None else (count,), heldout)


def _sample_scene(rng: np.random.Generator, counts: Sequence[int], heldout: bool) -> Scene:
    count = _pick_count(rng, counts)  # outside the loop, or the split would skew the weights
    while True:
        scene = _any_scene(rng, count)
        if is_heldout(scene) == heldout:
            return scene


def _reference(rng: np.random.Generator, scene: Scene, thing: Thing) -> str:
    """Name an object so that the name fits no other object of the scene."""
    unique = sum(other.shape == thing.shape for other in scene.things) == 1
    return thing.shape if rng.random() < SHAPE_ONLY and unique else thing.name


def _new_thing(
    rng: np.random.Generator, scene: Scene, slot: int, shapes: Sequence[str], colors: Sequence[str]
) -> Thing:
    """Draw a new object for a slot, unlike all objects of the scene."""
    names = {thing.name for thing in scene.things}
    options = [Thing(shape, color, slot) for shape in shapes for color in colors]
    return _pick(rng, [thing for thing in options if thing.name not in names])


def _with_things(scene: Scene, things: Sequence[Thing]) -> Scene:
    return with_(scene, things=tuple(sorted(things, key=lambda thing: thing.slot)))


def _others(options: Sequence[str], used: str) -> tuple[str, ...]:
    return tuple(option for option in options if option != used)


# Target scene, fields of the wording, and the words that say where to act.
Draft = tuple[Scene, dict[str, str], tuple[str, ...]]


def _add(rng: np.random.Generator, scene: Scene) -> Draft:
    new = _new_thing(rng, scene, _pick(rng, scene.free_slots), SHAPES, COLORS)
    fields = {"new": language.article(new.name), "place": language.place(new.slot)}
    return _with_things(scene, [*scene.things, new]), fields, (SLOT_NAMES[new.slot],)


def _replace(rng: np.random.Generator, scene: Scene) -> Draft:
    old = _pick(rng, scene.things)
    keep_color = rng.random() < 0.5
    colors = (old.color,) if keep_color else _others(COLORS, old.color)
    new = _new_thing(rng, scene, old.slot, _others(SHAPES, old.shape), colors)
    name = _reference(rng, scene, old)
    # An unchanged colour may be left out: "replace the red heart with a star" means a red one.
    noun = new.shape if keep_color and rng.random() < 0.5 else new.name
    things = [new if thing == old else thing for thing in scene.things]
    return _with_things(scene, things), {"thing": name, "new": language.article(noun)}, (name,)


def _remove(rng: np.random.Generator, scene: Scene) -> Draft:
    old = _pick(rng, scene.things)
    name = _reference(rng, scene, old)
    things = [thing for thing in scene.things if thing != old]
    return _with_things(scene, things), {"thing": name}, (name,)


def _color(rng: np.random.Generator, scene: Scene) -> Draft:
    old = _pick(rng, scene.things)
    new = _new_thing(rng, scene, old.slot, (old.shape,), _others(COLORS, old.color))
    name = _reference(rng, scene, old)
    things = [new if thing == old else thing for thing in scene.things]
    return _with_things(scene, things), {"thing": name, "color": new.color}, (name,)


def _background(rng: np.random.Generator, scene: Scene) -> Draft:
    background = _pick(rng, _others(BACKGROUNDS, scene.background))
    fields = {"ground": background}
    return with_(scene, background=background), fields, ("background",)


def _style(rng: np.random.Generator, scene: Scene) -> Draft:
    style = _pick(rng, _others(STYLES, scene.style))
    return with_(scene, style=style), {"style": language.article(style)}, (style,)


def _motion(rng: np.random.Generator, scene: Scene) -> Draft:
    old = _pick(rng, scene.things)
    new = with_(old, slot=_pick(rng, scene.free_slots))
    name, slot = _reference(rng, scene, old), SLOT_NAMES[new.slot]
    things = [new if thing == old else thing for thing in scene.things]
    fields = {"thing": name, "slot": slot, "place": language.place(new.slot)}
    return _with_things(scene, things), fields, (name, slot)


_EDITS: dict[str, Callable[[np.random.Generator, Scene], Draft]] = {
    "add": _add, "replace": _replace, "remove": _remove, "color": _color,
    "background": _background, "style": _style, "motion": _motion,
}  # fmt: skip


def sample_pair(
    rng: np.random.Generator, category: str | None = None, heldout: bool = False
) -> EditPair:
    """Draw an edit pair; the name of an object fits no other.

    category: one of CATEGORIES (InputError otherwise); None draws one, equally likely. heldout:
    take the source from the held-out split.
    """
    if category is None:
        category = _pick(rng, CATEGORIES)
    elif category not in CATEGORIES:
        raise InputError(f"category is {category!r}; give one of {', '.join(CATEGORIES)}")
    source = _sample_scene(rng, _COUNTS.get(category, tuple(COUNT_WEIGHTS)), heldout)
    return edit_scene(rng, source, category)


def edit_scene(rng: np.random.Generator, source: Scene, category: str) -> EditPair:
    """Draw an edit of a plain scene; see `fits` for the categories it can take."""
    target, fields, words = _EDITS[category](rng, source)
    text = _pick(rng, language.WORDINGS[category]).format(**fields)
    if rng.random() < _PLEASE:
        text = f"please {text}"
    if rng.random() < _PERIOD:
        text = f"{text}."
    return EditPair(category, text, words, source, target)


def fits(scene: Scene, category: str) -> bool:
    """Whether an edit of this category leaves a scene of the world: plain, with 1..4 objects."""
    return scene.style == "plain" and len(scene.things) in _COUNTS.get(category, COUNT_WEIGHTS)


def in_spare_color(pair: EditPair) -> EditPair | None:
    """The same edit with SPARE_COLOR as the colour it brings; None if it says none."""
    new = next((thing for thing in pair.target.things if thing not in pair.source.things), None)
    if new is None or pair.category not in ("add", "replace", "color"):
        return None
    spare = with_(new, color=language.SPARE_COLOR)
    said, says = language.article(new.name), language.article(spare.name)
    if pair.category == "color":  # the colour is its last word
        said, says = new.color, spare.color
    before, found, after = pair.instruction.rpartition(said)
    if not found:
        return None
    things = [spare if thing == new else thing for thing in pair.target.things]
    target = _with_things(pair.target, things)
    return with_(pair, instruction=f"{before}{says}{after}", target=target)


def with_bystander(rng: np.random.Generator, pair: EditPair) -> EditPair | None:
    """The same edit with SPARE_COLOR as the colour of an object that stays; None if none does."""
    kept = [thing for thing in pair.source.things if thing in pair.target.things]
    if not kept:
        return None
    old = _pick(rng, kept)
    spare = with_(old, color=language.SPARE_COLOR)

    def recolored(scene: Scene) -> Scene:
        return _with_things(scene, [spare if thing == old else thing for thing in scene.things])

    return with_(pair, source=recolored(pair.source), target=recolored(pair.target))


def pair_at(seed: int, index: int, heldout: bool, category: str | None = None) -> EditPair:
    """Pair number `index` of the endless data set `seed`.

    Always the same, as far as numpy's generator is. InputError as in sample_pair.
    """
    rng = np.random.default_rng([int(heldout), seed, index])
    return sample_pair(rng, category, heldout)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe everything visible in a scene: objects, places, background or style.

    At most language.CAPTION_TOKENS words and punctuation marks; the order of objects and the
    wording are random. Raises InputError for a scene without objects.
    """
    if not scene.things:
        raise InputError("things is empty; a caption needs a scene with 1 to 4 objects")
    plain = scene.style == "plain"
    order = rng.permutation(len(scene.things))
    things = [scene.things[int(index)] for index in order]
    nouns = [(thing.name if plain else thing.shape, thing.slot) for thing in things]
    choices = language.caption_choices(nouns, scene.background, scene.style)
    return _pick(rng, choices)
