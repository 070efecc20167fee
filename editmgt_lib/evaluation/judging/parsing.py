"""Scores out of what a judge wrote: exactly as many whole numbers as asked for, or none.

Nothing is guessed. The published parsers turn an answer they cannot read into a random number, or
leave it out of the mean.
"""

import json
import re
from collections.abc import Sequence

_SCORE_LIST = re.compile(r"""["']score["']\s*:\s*(\[[^\[\]{}]*\])""")


class Unreadable(Exception):
    """An answer without readable scores; the message completes "the answer has ..."."""


def read_list(text: str, count: int, low: int, high: int) -> tuple[int, ...]:
    """Read `"score": [...]` of a JSON object. Raises Unreadable.

    Text around the object and a broken reasoning beside the list are tolerated.
    """
    found = {tuple(_numbers(json_list)) for json_list in _score_lists(text)}
    if len(found) != 1:
        raise Unreadable("several different score lists" if found else "no score list")
    scores = found.pop()
    if len(scores) != count:
        raise Unreadable(f"{len(scores)} scores instead of {count}")
    return _in_range(scores, low, high)


def _score_lists(text: str) -> list[object]:
    try:
        return [json.loads(match[1]) for match in _SCORE_LIST.finditer(text)]
    except ValueError as error:
        raise Unreadable("a score list that is no JSON") from error


def _numbers(values: object) -> list[object]:
    if not isinstance(values, list):
        raise Unreadable("a score that is no list")
    if any(type(value) is not int for value in values):  # bool is an int too
        raise Unreadable("scores that are no whole numbers")
    return values


def read_lines(text: str, names: Sequence[str], low: int, high: int) -> tuple[int, ...]:
    """Read one line "NAME: NUMBER" for each name, in their order. Raises Unreadable."""
    return _in_range([_line(text, name) for name in names], low, high)


def _line(text: str, name: str) -> int:
    line = rf"^[ \t>*#_-]*{re.escape(name)}[ \t*_]*:[ \t*_]*(-?[\d.]*\d)( */ *\d+)?[ \t\r*_.]*$"
    found = {match[1] for match in re.finditer(line, text, re.IGNORECASE | re.MULTILINE)}
    if len(found) != 1:
        raise Unreadable(f"{'several lines' if found else 'no line'} {name!r} with a number")
    number = found.pop()
    if not re.fullmatch(r"-?\d{1,6}", number):
        raise Unreadable(f"{number} for {name!r}, which is no whole number")
    return int(number)


def _in_range(scores: Sequence[int], low: int, high: int) -> tuple[int, ...]:
    for score in scores:
        if not low <= score <= high:
            raise Unreadable(f"a score of {score}, outside {low} to {high}")
    return tuple(scores)
