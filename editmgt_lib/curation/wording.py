"""Words of captions and instructions, brought to one form."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = frozenset({
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "gray", "brown",
    "gold", "golden", "silver", "turquoise", "cyan", "magenta", "beige", "violet", "teal", "navy",
    "maroon", "lime", "cream", "ivory", "crimson", "scarlet", "indigo", "coral", "lavender",
    "olive", "bronze", "copper",
})  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_LEFT_OUT = frozenset({"a", "an", "the", "please"})
_SPELLINGS = {"grey": "gray", "colour": "color", "centre": "center", "middle": "center"}
_TYPOGRAPHIC = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)


def plain(text: str) -> str:
    """Lower case, with composed letters and typewriter quotes and dashes."""
    return unicodedata.normalize("NFC", text).translate(_TYPOGRAPHIC).lower().strip()


def words(text: str) -> list[str]:
    """Words without articles, singular and in American spelling."""
    found = (word for word in _WORD.findall(plain(text)) if word not in _LEFT_OUT)
    return [_SPELLINGS.get(one, one) for one in map(_singular, found)]


def count_words(text: str) -> int:
    """Number of words, articles too."""
    return len(_WORD.findall(plain(text)))


def find(part: Sequence[str], whole: Sequence[str]) -> int:
    """Index at which words follow one another within others; -1 if they do not."""
    starts = range(len(whole) - len(part) + 1) if part else ()
    return next((at for at in starts if list(whole[at : at + len(part)]) == list(part)), -1)


def matching(name: str, objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Objects of a caption that a name may mean: "dog" a "brown dog", and the other way round."""
    meant = set(words(name))
    named = [(one, set(words(one["name"]))) for one in objects]
    return [one for one, other in named if meant and other and (meant <= other or other <= meant)]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
