"""How GEdit and ImgEdit are judged: which questions, and what becomes of the answers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

from ...errors import InputError
from ..items import Item
from .parsing import read_lines, read_list
from .prompts import ANY_TYPE, Prompts

Answers = Mapping[str, tuple[int, ...]]
"""Scores by question; those that failed are left out."""
_CRITERION = re.compile(r"^(.+?): A number from 1 to 5\.?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """One call about one item.

    shows: roles of the pictures, in order. read: gives the scores, or raises Unreadable.
    """

    name: str
    text: str
    shows: tuple[str, ...]
    read: Callable[[str], tuple[int, ...]]


@dataclass(frozen=True)
class Protocol:
    """Questions about an item and the metrics of their answers.

    worst, best: of all metrics. needs: the questions that each metric, by name, is made of.
    """

    worst: float
    best: float
    needs: Mapping[str, tuple[str, ...]]
    questions: Callable[[Prompts, Item], tuple[Question, ...]]
    measure: Callable[[str, Answers], float]

    def values(self, answers: Answers) -> dict[str, float]:
        """The metrics whose questions were all answered."""
        known = (name for name, needed in self.needs.items() if set(needed) <= set(answers))
        return {name: self.measure(name, answers) for name in known}


def overall(sc: float, pq: float) -> float:
    """GEdit's O of one item; the mean of it is not that of the means."""
    return sqrt(sc * pq)


def _ask_gedit(prompts: Prompts, item: Item) -> tuple[Question, ...]:
    read = partial(read_list, count=2, low=0, high=10)
    text = prompts.templates["sc"].replace("<instruction>", item.instruction)
    return (
        Question("sc", text, ("source", "result"), read),
        Question("pq", prompts.templates["pq"], ("result",), read),
    )


def _measure_gedit(metric: str, answers: Answers) -> float:
    if metric == "o":
        return overall(min(answers["sc"]), min(answers["pq"]))
    return float(min(answers[metric]))


def _ask_imgedit(prompts: Prompts, item: Item) -> tuple[Question, ...]:
    kind = item.task.lower()
    template = prompts.templates.get(kind) or prompts.templates.get(ANY_TYPE)
    if template is None:
        known = ", ".join(prompts.templates)
        raise InputError(
            f"the prompts know no type of edit {item.task!r} (item {item.id}), only {known}; give "
            "those of this benchmark, or leave --prompts out for our own rubric"
        )
    names = _CRITERION.findall(template)
    if len(names) != 3:
        raise InputError(
            f"the prompt for {kind!r} names {len(names)} criteria in lines 'NAME: A number from 1 "
            "to 5' instead of 3; give the benchmark's own prompts.json"
        )
    text = template.replace("<edit_prompt>", item.instruction)
    read = partial(read_lines, names=names, low=1, high=5)
    return (Question("criteria", text, ("source", "result"), read),)


def _measure_imgedit(metric: str, answers: Answers) -> float:
    first, second, third = answers["criteria"]
    if metric == "mean-capped":  # what the prompt demands and the benchmark's code does not do
        return round((first + min(second, first) + min(third, first)) / 3, 2)
    if metric == "mean":
        return round((first + second + third) / 3, 2)
    return float({"first": first, "second": second, "third": third}[metric])


_CRITERIA = ("mean", "mean-capped", "first", "second", "third")
_PROTOCOLS = {
    "gedit": Protocol(
        0, 10, {"sc": ("sc",), "pq": ("pq",), "o": ("sc", "pq")}, _ask_gedit, _measure_gedit
    ),
    "imgedit": Protocol(
        1, 5, dict.fromkeys(_CRITERIA, ("criteria",)), _ask_imgedit, _measure_imgedit
    ),
}


def find_protocol(name: str) -> Protocol:
    """A protocol by name, one of `options.PROTOCOLS`."""
    return _PROTOCOLS[name]


def scale(metric: str) -> dict[str, Any] | None:
    """What a report needs about a metric of a judge: worst, best, better; None for others."""
    protocol = _PROTOCOLS.get(metric.partition("/")[0])
    if protocol is None:
        return None
    return {"worst": protocol.worst, "best": protocol.best, "better": "higher"}
