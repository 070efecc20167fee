"""How GEdit and ImgEdit are judged: which questions, and what becomes of the answers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import NamedTuple

from ...errors import InputError
from ..items import Item
from .parsing import read_lines, read_list
from .prompts import ANY_TYPE, OWN, Prompts

Answers = Mapping[str, tuple[int, ...]]
"""Scores by question; those that failed are left out."""
_OLDER = {"adjust": "alter"}  # a type of edit in the archive's own prompts
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
    meanings: of the metrics, for the user.
    """

    worst: float
    best: float
    needs: Mapping[str, tuple[str, ...]]
    meanings: Mapping[str, str]
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
    names = (kind, _OLDER.get(kind), ANY_TYPE)
    template = next((prompts.templates[n] for n in names if n in prompts.templates), None)
    if template is None:
        known = ", ".join(prompts.templates)
        raise InputError(
            f"the prompts know no type of edit {item.task!r} (item {item.id}), only {known}; give "
            "those of this benchmark, or leave `prompts` out for our own rubric"
        )
    criteria = _CRITERION.findall(template)
    if len(criteria) != 3:
        raise InputError(
            f"the prompt for {kind!r} has {len(criteria)} lines 'NAME: A number from 1 to 5' "
            "instead of 3; give the benchmark's own prompts.json"
        )
    text = template.replace("<edit_prompt>", item.instruction)
    read = partial(read_lines, names=criteria, low=1, high=5)
    return (Question("criteria", text, ("source", "result"), read),)


def _measure_imgedit(metric: str, answers: Answers) -> float:
    first, second, third = answers["criteria"]
    if metric == "mean-capped":  # what the prompt demands and the benchmark's code does not do
        return round((first + min(second, first) + min(third, first)) / 3, 2)
    if metric == "mean":
        return round((first + second + third) / 3, 2)
    return float({"first": first, "second": second, "third": third}[metric])


_THREE = ("criteria",)
_PROTOCOLS = {
    "gedit": Protocol(
        worst=0,
        best=10,
        needs={"sc": ("sc",), "pq": ("pq",), "o": ("sc", "pq")},
        meanings={
            "sc": "is the instruction followed, and only it; the lower of two scores",
            "pq": "is the result natural and free of damage; the lower of two scores",
            "o": "square root of SC times PQ of the item",
        },
        questions=_ask_gedit,
        measure=_measure_gedit,
    ),
    "imgedit": Protocol(
        worst=1,
        best=5,
        needs=dict.fromkeys(("mean", "mean-capped", "first", "second", "third"), _THREE),
        meanings={
            "mean": "mean of the three criteria",
            "mean-capped": "mean of the three criteria, the second and third at most the first",
            "first": "compliance with the instruction",
            "second": "the second criterion of the type of edit, mostly naturalness",
            "third": "the third criterion of the type of edit, mostly physics and detail",
        },
        questions=_ask_imgedit,
        measure=_measure_imgedit,
    ),
}


def find_protocol(name: str) -> Protocol:
    """A protocol by name, one of `options.PROTOCOLS`."""
    return _PROTOCOLS[name]


class Scale(NamedTuple):
    """What a report says of a judge's metric. worst: what a failed item counts as."""

    meaning: str
    worst: float
    best: float
    comparable: bool


def scale(metric: str) -> Scale | None:
    """Explain a metric that a judge scored; None for all others. Higher is better.

    comparable: with published scores of the same judge, prompts and resize.
    """
    protocol, _, rest = metric.partition("/")
    found = _PROTOCOLS.get(protocol)
    criterion = rest.partition("/")[0]
    if found is None or criterion not in found.meanings:
        return None
    own = f"/{OWN}-" in metric
    note = "; our own rubric, not comparable with published scores" if own else ""
    meaning = f"{found.meanings[criterion]}, {found.worst:g} to {found.best:g}, by a judge{note}"
    return Scale(meaning, found.worst, found.best, not own)
