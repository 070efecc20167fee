"""Whether what an instruction says of places holds: "the cup on the left" against the caption."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .wording import COLOURS, find, matching, plain, words

CONFIRMED, REFUTED, UNCHECKED = "confirmed", "refuted", "unchecked"
NAMING = ("replace", "remove", "color", "motion change")
"""Categories whose instructions name an object that the picture shows."""

_SIDES: Mapping[str, tuple[str, int]] = {
    "left": ("x", -1), "leftmost": ("x", -1), "right": ("x", 1), "rightmost": ("x", 1),
    "top": ("y", -1), "upper": ("y", -1), "topmost": ("y", -1),
    "bottom": ("y", 1), "lower": ("y", 1),
    "foreground": ("z", -1), "background": ("z", 1),
}  # fmt: skip
_RELATIONS: Mapping[str, tuple[str, int]] = {
    "left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1),
    "under": ("y", 1), "beneath": ("y", 1), "in front of": ("z", -1), "behind": ("z", 1),
}  # fmt: skip
_SIDE = rf"(?:{'|'.join(_SIDES)}|cent(?:er|re)|middle)"
_WHOLE = r"the (?:picture|image|photo|photograph|scene|frame)"
_AREA = r"(?:side|corner|edge|half|part|area|third)"
_AFTER = rf"and|with|to|into|for|by|from|so|should|{'|'.join(sorted(COLOURS))}"
_PLACE = re.compile(
    rf"\b(?:on|at|in|to|from|near|towards?|into) the (?:far |very )?({_SIDE}(?:[ -]{_SIDE})?)"
    # else it is the side of a thing: "in the left hand"
    rf"(?= {_AREA}\b| of {_WHOLE}|\s*(?:$|[.,;:!])| (?:{_AFTER})\b)"
)
_RELATION = re.compile(rf"\b({'|'.join(_RELATIONS)})\b(?! {_WHOLE})")
_RESULT = re.compile(r"\b(?:with|for|into|by)\b")
_DEPTH = re.compile(r"\b(?:foreground|background)\b")
_SPATIAL = re.compile(rf"\b{_SIDE}\b|{_RELATION.pattern}")


def position(text: str) -> dict[str, int]:
    """Coordinates -1, 0, 1 by axis (x to the right, y down, z away), as far as a text says them."""
    said = words(text)
    found = dict(_SIDES[word] for word in said if word in _SIDES)
    if "center" in said and not found.keys() & {"x", "y"}:
        found |= {"x": 0, "y": 0}
    return found


def check_places(
    category: str, instruction: str, name: str, objects: Sequence[Mapping[str, Any]]
) -> str:
    """Compare the places said of a named object with the caption's.

    Gives "" if none are said. "unchecked": they say where something is to go, or the caption does
    not say where it is.
    """
    text = plain(instruction)
    if category not in NAMING:
        return UNCHECKED if _SPATIAL.search(_DEPTH.sub("", text)) else ""
    if not _SPATIAL.search(text):
        return ""
    source = _about_source(category, text)
    wheres = [position(str(one.get("where", ""))) for one in matching(name, objects)]
    claims = [position(match[1]) for match in _PLACE.finditer(source)] + _adjectives(source, name)
    verdicts = [_best([_compare(claim, where) for where in wheres]) for claim in claims if claim]
    verdicts += _related(source, wheres, objects)
    if REFUTED in verdicts:
        return REFUTED
    return CONFIRMED if CONFIRMED in verdicts else UNCHECKED


def stays(instruction: str, name: str, objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an object is to move to where the caption says it is."""
    places = list(_PLACE.finditer(plain(instruction)))
    wheres = [position(str(one.get("where", ""))) for one in matching(name, objects)]
    return bool(places) and len(wheres) == 1 and position(places[-1][1]) == wheres[0] != {}


def _about_source(category: str, text: str) -> str:
    """The part of an instruction that speaks of the picture as it is."""
    if category == "motion change":
        said = [*_PLACE.finditer(text), *_RELATION.finditer(text)]
        return text[: max((match.start() for match in said), default=len(text))]
    match = _RESULT.search(text) if category == "replace" else None
    return text[: match.start()] if match else text


def _adjectives(text: str, name: str) -> list[dict[str, int]]:
    """Sides right before the name: "the left cup"."""
    said, named = words(text), words(name)
    at = find(named, said)
    if at < 0:
        return []
    before = []
    while at > 0 and (said[at - 1] in _SIDES or said[at - 1] == "center"):
        at -= 1
        before.append(said[at])
    return [position(" ".join(before))] if before else []


def _compare(claim: Mapping[str, int], where: Mapping[str, int]) -> str:
    """The centre contradicts no side: of two cups there, one is the left one."""
    both = claim.keys() & where.keys()
    if any(claim[axis] == -where[axis] != 0 for axis in both):
        return REFUTED
    return CONFIRMED if any(claim[axis] == where[axis] for axis in both) else UNCHECKED


def _best(verdicts: Sequence[str]) -> str:
    """Of several objects that may be meant, one is enough; of none, nothing is known."""
    if not verdicts:
        return UNCHECKED
    return next(v for v in (CONFIRMED, UNCHECKED, REFUTED) if v in verdicts)


def _related(
    text: str, wheres: Sequence[Mapping[str, int]], objects: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Places in relation to another object: "left of the plate"."""
    match = _RELATION.search(text)
    if match is None:
        return []
    axis, sign = _RELATIONS[match[1]]
    tail = words(text[match.end() :])
    other = next((one for one in objects if find(words(one["name"]), tail) == 0), None)
    there = None if other is None else position(str(other.get("where", ""))).get(axis)
    steps = [sign * (w[axis] - there) for w in wheres if there is not None and axis in w]
    return [_best([CONFIRMED if s > 0 else REFUTED if s < 0 else UNCHECKED for s in steps])]
