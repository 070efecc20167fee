"""Thresholds to verdicts, from values alone: pure, and run again whenever a threshold moves."""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .rows import DROP, FAILED, KEEP, Row

_OPERATORS = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(>=|<=|==|>|<)\s*([-+0-9.eE]+)\s*")


@dataclass(frozen=True)
class Limit:
    """A row is kept if its value fulfils every condition.

    Attributes:
        stage, name: of the value; the name is also the reason code.
        conditions: (operator, number).
        required: drop a row without this value ("not_scored"); else it passes.
        flag: only flag, never drop.
    """

    stage: str
    name: str
    conditions: tuple[tuple[str, float], ...]
    required: bool = False
    flag: bool = False

    @classmethod
    def parse(cls, stage: str, name: str, text: str) -> "Limit":
        """Read ">= 1024", ">0.05, <0.95", "required >= 4.5" or "flag == 0".

        Raises InputError.
        """
        word, _, rest = text.strip().partition(" ")
        modes = {"required": {"required": True}, "flag": {"flag": True}}
        mode, conditions = (modes[word], rest) if word in modes else ({}, text)
        matches = [_CONDITION.fullmatch(part) for part in conditions.split(",")]
        try:
            return cls(stage, name, tuple((m[1], float(m[2])) for m in matches), **mode)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{stage}.{name} is {text!r}; write a condition such as '>= 1024', "
                "'> 0.05, < 0.95', 'flag == 0', 'required > 4.5' or 'off'"
            ) from error

    def holds(self, value: Any) -> bool:
        """Whether a value that exists fulfils the conditions; NaN never does."""
        return all(_OPERATORS[sign](value, number) for sign, number in self.conditions)

    def __str__(self) -> str:
        return ", ".join(f"{sign} {number:g}" for sign, number in self.conditions)


@dataclass(frozen=True)
class Decision:
    """The verdict on a row and the first thing that led to it.

    Attributes:
        stage, reason: of the limit or failure that decided; empty for "keep".
        measured, limit: the value and the condition it broke.
        flags: limits that only flag. unscored: values with a limit that nobody computed.
    """

    verdict: str = KEEP
    stage: str = ""
    reason: str = ""
    measured: Any = None
    limit: str = ""
    flags: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()


def decide(row: Row, limits: Sequence[Limit]) -> Decision:
    """Judge a row by what was found about it, in the order of the stages."""
    by_stage: Mapping[str, list[Limit]] = {}
    for limit in limits:
        by_stage.setdefault(limit.stage, []).append(limit)
    flags, unscored = [], []
    for stage, found in row.found.items():
        if found.failure is not None:
            return Decision(FAILED, stage, found.failure.code, found.failure.detail)
        for limit in by_stage.get(stage, ()):
            name, value = f"{stage}.{limit.name}", found.values.get(limit.name)
            if value is None:
                unscored.append(name)
                if limit.required:
                    return Decision(DROP, stage, "not_scored", None, f"{name} {limit}")
            elif not limit.holds(value):
                if not limit.flag:
                    return Decision(DROP, stage, limit.name, value, str(limit))
                flags.append(name)
    return Decision(flags=tuple(flags), unscored=tuple(unscored))
