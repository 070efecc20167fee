"""Faults of an instruction that can be told before any edit, from its words and the caption."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .places import NAMING, REFUTED, check_places, stays
from .wording import COLOURS, count_words, find, matching, plain, words

FEWEST, MOST = 3, 60  # words
_VERBS = (
    "add|insert|include|put|place|draw|remove|delete|erase|replace|swap|change|make|turn|paint|"
    "recolor|recolour|move|shift|give|convert|transform|crop|rotate|blur"
)
_CLAUSE = re.compile(r"[.;,]|\b(?:and|then|also|but)\b")
_VERB = re.compile(rf"(?:please )?(?:{_VERBS})\b")
_REFUSAL = re.compile(
    r"\bi(?:'m| am) sorry\b|\bi (?:can't|cannot|can not|won't)\b|\bas an ai\b|\bunable to\b|"
    r"\bnot (?:possible|applicable|able)\b|^(?:none|n/a)\W*$"
)
_JUNK = re.compile(r"[<>{}\[\]\\|`#*_~^]|https?:|www\.")
_ALLOWED = frozenset("\u00b0\u00a9\u00ae")  # degrees, copyright, registered
_SUBTLE = re.compile(r"\b(?:slight|slightly|subtle|subtly|barely|a (?:tiny )?bit|faintly)\b")
_MORE = frozenset({"another", "second", "third", "more", "extra", "additional", "further"})
_PICKED = frozenset({
    "all", "both", "every", "each", "other", "left", "right", "top", "bottom", "center", "leftmost",
    "rightmost", "first", "last", "nearest", "closest", "farthest", "foreground", "background",
    "front", "back",
})  # fmt: skip
_RESULT = re.compile(r"\b(?:with|for|by|into|to|become)\s+(.+)$")
_GROUND = re.compile(r"\b(\w+) background\b")

_CLAIMS: Mapping[str, re.Pattern[str]] = {
    "add": re.compile(r"add|insert"),
    "replace": re.compile(r"replace|swap|substitute|exchange"),
    "remove": re.compile(r"remove|delete|erase|eliminate|get rid of"),
    "color": re.compile(r"recolou?r|repaint|dye|tint|colou?r"),
    "style": re.compile(r"restyle|styli[sz]e"),
    "motion change": re.compile(r"move|shift|rotate|relocate"),
}
"""Opening words that say the category."""
_SIGNS: Mapping[str, re.Pattern[str]] = {
    "add": re.compile(r"\b(?:add|insert|include|put|place|draw|give|there should be)\b"),
    "replace": re.compile(
        r"\b(?:replace|swap|substitute|exchange|in place of|instead of|into|become)\b"
    ),
    "remove": re.compile(
        r"\b(?:remove|delete|erase|eliminate|get rid of|take|disappear|vanish|without)\b"
    ),
    "color": re.compile(rf"colou?r|\b(?:paint|dye|tint|hue|{'|'.join(sorted(COLOURS))})\b"),
    "background change": re.compile(r"background|backdrop|scene|setting|surround|sky|behind"),
    "style": re.compile(r"styl|picture|image|photo|scene|look|sketch|paint|draw|render|filter"),
    "motion change": re.compile(
        r"\b(?:move|shift|rotate|relocate|bring|put|place|smile|sit|stand|run|jump|raise|lower|"
        r"turn|look|open|close|wave|lie|walk|fly|pose|expression|gaze|arms?|legs?|hands?|head)\b"
    ),
}
"""Words that leave room for the category, whatever the opening says."""


@dataclass(frozen=True)
class Proposal:
    """An instruction as a writer gave it, and what the picture shows.

    Attributes:
        object: what it is about. target: caption of the result, "" if unknown.
        caption, objects: of the picture, see `Writer.caption`.
    """

    category: str
    instruction: str
    object: str
    target: str
    caption: str
    objects: tuple[Mapping[str, Any], ...]

    @property
    def spatial(self) -> str:
        """What became of the places it names; see `check_places`."""
        return check_places(self.category, self.instruction, self.object, self.objects)


@dataclass(frozen=True)
class Check:
    """A fault. told: to the writer, in place of the reason."""

    told: str
    holds: Callable[[Proposal], bool]


def find_faults(one: Proposal) -> tuple[str, ...]:
    """Names of the faults of an instruction, out of CHECKS."""
    return tuple(name for name, check in CHECKS.items() if check.holds(one))


def same_edit(one: Proposal) -> tuple[str, ...]:
    """What is equal for two instructions that ask for the same, as far as words tell."""
    if one.category == "remove":
        return ("remove", *sorted(words(one.object)))
    return tuple(words(one.instruction))


def _length(one: Proposal) -> bool:
    return not FEWEST <= count_words(one.instruction) <= MOST


def _junk(one: Proposal) -> bool:
    signs = set(unicodedata.normalize("NFC", one.instruction)) - _ALLOWED
    kinds = {sign: unicodedata.category(sign) for sign in signs}
    foreign = (
        kind == "So" or kind[0] == "C"
        or kind[0] in "LM" and not unicodedata.name(sign, "").startswith("LATIN")
        for sign, kind in kinds.items()
    )  # fmt: skip
    return any(foreign) or _JUNK.search(one.instruction) is not None


def _refusal(one: Proposal) -> bool:
    return _REFUSAL.search(plain(one.instruction)) is not None


def _misfiled(one: Proposal) -> bool:
    if one.category not in _SIGNS:
        return True
    about = words(one.object)
    if about == ["background"] and one.category in ("replace", "remove", "color", "style"):
        return True
    text = plain(one.instruction).removeprefix("please ")
    others = (sign for name, sign in _CLAIMS.items() if name != one.category)
    claimed = any(sign.match(text) for sign in others)
    return claimed and not _SIGNS[one.category].search(text)


def _several(one: Proposal) -> bool:
    clauses = (clause.strip() for clause in _CLAUSE.split(plain(one.instruction)))
    return sum(_VERB.match(clause) is not None for clause in clauses) > 1


def _unnamed(one: Proposal) -> bool:
    if one.category not in ("add", *NAMING):
        return False
    return not set(words(one.object)) & set(words(one.instruction))


def _absent(one: Proposal) -> bool:
    name, told = words(one.object), words(one.caption)
    if one.category not in NAMING or find(name, told) >= 0:
        return False
    found = matching(one.object, one.objects)
    said = COLOURS & set(name)
    if not found or any(said & set(words(other["name"])) for other in found):
        return not found
    # A "blue cup", when the caption speaks of a red cup and the list of a cup.
    shown = {word for word, after in zip(told, told[1:], strict=False) if after == name[-1]}
    return bool(said and COLOURS & shown) and not said & shown


def _present(one: Proposal) -> bool:
    if one.category != "add" or _MORE & set(words(one.instruction)):
        return False
    return any(words(other["name"]) == words(one.object) for other in one.objects)


def _ambiguous(one: Proposal) -> bool:
    said = words(one.instruction)
    if one.category not in NAMING or _PICKED & set(said):
        return False
    found = matching(one.object, one.objects)
    exact = [other for other in found if set(words(other["name"])) <= set(said)]
    number = sum(int(other.get("count", 1)) for other in exact or found)
    plural = any(f"{word}s" in plain(one.instruction) for word in words(one.object)[-1:])
    return number > 1 and not plural


def _noop(one: Proposal) -> bool:
    text = plain(one.instruction)
    if one.category == "motion change":
        return stays(one.instruction, one.object, one.objects)
    if one.target and words(one.target) == words(one.caption):
        return True
    found = matching(one.object, one.objects)
    names = [words(one.object), *(words(other["name"]) for other in found[:1] if len(found) == 1)]
    if one.category == "replace":
        result = _RESULT.search(text)
        return result is not None and words(result[1]) in names
    if one.category == "color":
        return _same_colours(words(text), names)
    if one.category == "background change":
        ground = _GROUND.search(plain(one.caption))
        return ground is not None and COLOURS & set(words(text)) == {*words(ground[1])}
    return False


def _same_colours(said: list[str], names: Sequence[list[str]]) -> bool:
    """Whether all colours but those of the object's name are colours it has."""
    name = next((n for n in sorted(names, key=len, reverse=True) if find(n, said) >= 0), [])
    wanted = {word for word in Counter(said) - Counter(name) if word in COLOURS}
    return bool(wanted) and wanted <= {word for one in names for word in one}


def _subtle(one: Proposal) -> bool:
    # "slightly to the right" of something is a good place to add a thing at
    return one.category != "add" and _SUBTLE.search(plain(one.instruction)) is not None


CHECKS: Mapping[str, Check] = {
    "length": Check(f"it has fewer than {FEWEST} or more than {MOST} words", _length),
    "junk": Check("it holds signs that belong in no plain English sentence", _junk),
    "refusal": Check("it is no instruction", _refusal),
    "misfiled": Check("it asks for an edit of another category", _misfiled),
    "several": Check("it asks for more than one edit", _several),
    "unnamed": Check("it does not name its object", _unnamed),
    "absent": Check("the description does not have its object", _absent),
    "present": Check("what it adds is there already; say 'another' if so meant", _present),
    "ambiguous": Check("its object may be one of several; say which, or all", _ambiguous),
    "misplaced": Check(
        "it says a place that the description contradicts", lambda one: one.spatial == REFUTED
    ),
    "noop": Check("it asks for what the picture shows already", _noop),
    "subtle": Check("it asks for a change that can hardly be seen", _subtle),
}
"""Faults by name, which is also the reason that a row is dropped for."""
