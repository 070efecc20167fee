"""What exports make of rows besides pairs: reversed pairs, negatives, and preferences."""

import re
from collections.abc import Mapping
from typing import Any

from .decide import Decision
from .rows import DROP, Row

NOT_DONE = ("noop", "largest", "clip_direction", "instruction")
"""Values of the stage `quality` that tell whether the edit was done."""

_REMOVE = re.compile(
    r"(?:remove|delete|erase|eliminate|take (?:away|out)|take|get rid of|wipe (?:away|out))"
    r" (?:(?:the|a|an|this|that|these|those) )?(?P<rest>.+)"
    r"|the (?P<vanishing>.+?) should (?:disappear|vanish|be gone|be removed)"
)
_ADD = re.compile(
    r"(?:(?P<lead>(?:in|on|at|near|next to|behind|under|above|below|beside) [^,]+), )?"
    r"(?:add|put|place|draw|insert|include|there should be) "
    r"(?:(?:a|an|some|the) )?(?P<rest>.+)"
)
_WHERE = (
    "on", "in", "at", "near", "under", "behind", "above", "below", "beneath", "beside", "between",
    "next", "with", "inside", "along", "around", "over", "by", "against", "across", "among", "that",
    "which", "who", "of", "to", "from", "into", "onto", "off", "out",
)  # fmt: skip
_CLAUSE = re.compile(
    r"[,;:.]|\b(?:then|so|while|without|but|instead|leaving|keeping|making|filling|replacing)\b"
)
_AMONG_OTHERS = re.compile(
    r"(?:all|both|every|each|any|other|another|remaining|rest|more|extra|additional|only|same|"
    r"first|second|third|last|next|\w+most|(?!forest|chest|guest|west|nest|vest)\w+est|\w+'s?)"
)
_SINGULAR_S = re.compile(r"(?:\w*(?:ss|us|is)|lens|gas|canvas|atlas)")
_NO_ARTICLE = re.compile(
    r"clothing|dirt|dust|fog|foliage|food|furniture|grass|graffiti|hair|ice|jewelry|lettering|"
    r"makeup|mist|moss|mud|rain|sand|smoke|snow|steam|sunlight|text|water|writing|children|feet|"
    r"men|people|teeth|women|two|three|four|five|six|seven|eight|nine|ten|several|many|few"
)
_AN = re.compile(r"[ai]|e(?!u)|o(?!ne)|u(?!ni|s[aeiu]|t[aeiu])|hour|honest|heir")


def reversed_instruction(category: str, instruction: str, object: str) -> tuple[str, str] | None:
    """Category and instruction of a pair with its pictures swapped: "remove" <-> "add".

    object: what the edit is about. None for other categories, and where it cannot be said: other
    objects are presupposed ("the other cup"), or the sentence asks for more.
    """
    end = "." if instruction.rstrip().endswith(".") else ""
    text = " ".join(instruction.split()).rstrip(".")
    text = re.sub(r"^please ", "", text, flags=re.IGNORECASE)
    name = re.sub(r"^(?:the|an?|some) ", "", " ".join(object.split()), flags=re.IGNORECASE)
    write = {"remove": _as_addition, "add": _as_removal}.get(category)
    said = write(text[:1].lower() + text[1:], name) if write and text and name else None
    if said is None:
        return None
    upper = instruction.strip()[:1].isupper()
    said = said[0].upper() + said[1:] if upper else said
    return ("add" if category == "remove" else "remove"), said + end


def is_negative(decision: Decision, row: Row) -> bool:
    """Whether a dropped edit is worth keeping as an example of one that was not done.

    Edits that are broken in other ways (moved, damaged, unreadable) teach nothing.
    """
    edits = row.found.get("edits")
    made = edits is not None and edits.failure is None and "edited" in edits.pictures
    dropped = decision.verdict == DROP and decision.stage == "quality"
    return made and dropped and decision.reason in NOT_DONE


def less_liked(row: Row) -> Mapping[str, Any] | None:
    """The candidate in the picture `edits.other`, if the judge found the chosen one better.

    Only a comparison of these two that came out the same in both orders counts.
    """
    edits = row.found.get("edits")
    if edits is None or "other" not in edits.pictures:
        return None
    candidates = row.value("edits.candidates")
    both = tuple(row.value(f"edits.{name}") for name in ("chosen", "second"))
    compared = [k for k, one in enumerate(candidates) if not one["failure"]]
    for one in row.value("edits.comparisons") or ():
        of = [compared[k] for k in one.get("of", ())]
        if set(of) == set(both) and one["winner"] is not None and one["agreed"]:
            return candidates[both[1]] if of[one["winner"]] == both[0] else None
    return None


def _as_addition(text: str, name: str) -> str | None:
    match = _REMOVE.fullmatch(text)
    found = _split(match["rest"] or match["vanishing"], name) if match else None
    if found is None:
        return None
    noun, tail = found
    tail = "" if tail == "out" else tail
    first, _, rest = tail.partition(" ")
    if first in ("from", "off"):
        tail = rest if rest.partition(" ")[0] in _WHERE else f"to {rest}"
    elif first in ("to", "into", "onto", "out") and not _beside(tail):
        return None
    return " ".join(["add", _indefinite(noun), *filter(None, [tail])])


def _as_removal(text: str, name: str) -> str | None:
    match = _ADD.fullmatch(text)
    found = _split(match["rest"], name) if match else None
    if found is None:
        return None
    noun, tail = found
    first, _, rest = tail.partition(" ")
    if first in ("to", "into", "onto") and not _beside(tail):
        tail = f"from {rest}"
    return " ".join(["remove the", noun, *filter(None, [tail, match["lead"]])])


def _split(text: str, name: str) -> tuple[str, str] | None:
    """The noun phrase that `text` begins with, and what follows; None if it is not plain."""
    words, names = text.split(), name.split()
    folded = [word.lower() for word in words]
    for count in range(len(names), 0, -1):  # a sentence may leave out words of the name
        own = [word.lower() for word in names[-count:]]
        at = next((k for k in range(len(words)) if folded[k : k + count] == own), None)
        if at is not None:
            break
    else:
        return None
    before, tail = words[:at], words[at + count :]
    left_out = [] if set(folded[:at]) & {n.lower() for n in names} else names[:-count]
    noun = [*before, *left_out, *words[at : at + count]]
    follows = not tail or tail[0] in _WHERE or tail[0].endswith("ing")
    joined = " ".join(tail)
    second = "and" in tail and tail[0] != "between"
    if not follows or second or _CLAUSE.search(" ".join(words)) or set(folded[:at]) & set(_WHERE):
        return None
    if any(_AMONG_OTHERS.fullmatch(word.lower()) for word in noun) or "and" in before:
        return None
    return " ".join(noun), joined


def _beside(tail: str) -> bool:
    pattern = r"to (?:the|its|his|her|their) (?:\w+ )?(?:left|right|side)\b"
    return re.match(pattern, tail) is not None


def _indefinite(noun: str) -> str:
    words = noun.lower().split()
    plural = words[-1].endswith("s") and not _SINGULAR_S.fullmatch(words[-1])
    if plural or any(_NO_ARTICLE.fullmatch(word) for word in (words[0], words[-1])):
        return noun
    return f"{'an' if _AN.match(words[0]) else 'a'} {noun}"
