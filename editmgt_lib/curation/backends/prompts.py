"""Our own questions to vision-language models; CrispEdit's were never published."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .base import RUBRIC
from .schemas import array, choice, number, record, string

CAPTION = """\
Describe this picture for somebody who will edit it: main objects with colour, material and place, \
the background, light and style. State only what is visible. List the distinct objects with how \
many there are of each and where they are (left, right, top, bottom, center, foreground, \
background)."""
CAPTION_SCHEMA = record(
    caption=string(2000, 10),
    objects=array(
        record(name=string(80, 1), count=number(1, 1000, whole=True), where=string(120)), 40
    ),
)

_RULES = {
    "add": "add one new object, saying where; it must fit the scene",
    "replace": "replace one visible object by a different one",
    "remove": "remove one visible object, all of it",
    "color": "change the colour of one visible object to another",
    "background change": "change the background and nothing in front of it",
    "style": "turn the whole picture into another style",
    "motion change": "change pose, action or expression of a living or moving thing, so that it "
    "can be seen at once",
}
_WRITE = """\
Write instructions for edits of a picture. Its description, as JSON:
{caption}

Wanted, as JSON from category to number: {counts}
{rules}

Each instruction asks for exactly one edit, in one plain English sentence, names its object so \
that it can be meant for no other, and contradicts nothing in the description. Vary objects and \
verbs. "object" is the thing the edit is about, as the description calls it ("picture" for style, \
"background" for the background). "caption" is the description in one sentence as it holds after \
the edit. Leave out a category that does not fit the picture."""
_FAULTS = """

Earlier instructions were refused. Write better ones in their place:
{faults}"""

_COMPARE = """\
The first picture is a source. The second and the third are two attempts at this edit of category \
{category}, as JSON text: {instruction}
Which attempt is better? First comes whether the edit was done, wholly and as asked; then whether \
everything else stayed as it was; then whether the picture is free of faults. Say "first" for the \
second picture, "second" for the third, and "tie" if neither is clearly better."""
COMPARE_SCHEMA = record(reasoning=string(2000), better=choice("first", "second", "tie"))

_RATE = """\
The first picture is a source, the second the result of this edit of category {category}, as JSON \
text: {instruction}
Rate from 0 to 10, whole numbers. "instruction": was exactly this done, wholly, to all the objects \
meant (0: not at all). "preservation": did everything stay that the edit is not about (0: another \
picture). "quality": is it free of artefacts, seams, wrong anatomy and light (0: unusable). An \
unchanged picture gets 0 for instruction. "done" says in one sentence what really changed."""
RATE_SCHEMA = record(
    reasoning=string(2000),
    done=string(500),
    **{name: number(0, 10, whole=True) for name in RUBRIC},
)

SCORE = """\
State facts about this picture. "aesthetic": 1 (worthless) to 10 (outstanding). "watermark": is \
there a watermark or a stock mark. "text_area": share of the picture under letters, 0 to 1. \
"faces": number of human faces. "nsfw": is there nudity, sex or gore. "minors": is a child \
visible. "photo": is it a photograph or photorealistic. "suitable": has it distinct objects that \
an edit could be about."""
SCORE_SCHEMA = record(
    aesthetic=number(1, 10),
    watermark={"type": "boolean"},
    text_area=number(0, 1),
    faces=number(0, 1000, whole=True),
    nsfw={"type": "boolean"},
    minors={"type": "boolean"},
    photo={"type": "boolean"},
    suitable={"type": "boolean"},
)


def write_schema(counts: Mapping[str, int]) -> dict[str, Any]:
    """Schema of up to so many instructions of these categories."""
    one = record(
        category=choice(*counts),
        instruction=string(400, 8),
        object=string(80, 1),
        caption=string(2000),
    )
    return record(instructions=array(one, sum(counts.values())))


def write_text(
    caption: Mapping[str, Any], counts: Mapping[str, int], faults: Sequence[Mapping[str, str]]
) -> str:
    """The question for instructions."""
    rules = "\n".join(f"- {name}: {_RULES[name]}" for name in counts)
    text = _WRITE.format(caption=_json(caption), counts=_json(counts), rules=rules)
    return text + (_FAULTS.format(faults="\n".join(map(_json, faults))) if faults else "")


def compare_text(instruction: str, category: str) -> str:
    """The question which of two results is better."""
    return _COMPARE.format(instruction=_json(instruction), category=category)


def rate_text(instruction: str, category: str) -> str:
    """The question how good a result is."""
    return _RATE.format(instruction=_json(instruction), category=category)


def _json(value: Any) -> str:
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(plain, ensure_ascii=False)


DIGEST = hashlib.sha256(
    _json([
        CAPTION, CAPTION_SCHEMA, _RULES, _WRITE, _FAULTS, write_schema({}), _COMPARE,
        COMPARE_SCHEMA, _RATE, RATE_SCHEMA, SCORE, SCORE_SCHEMA,
    ]).encode()
).hexdigest()[:16]  # fmt: skip
"""Fingerprint of all questions."""
