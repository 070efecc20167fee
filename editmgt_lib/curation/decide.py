"""Thresholds to verdicts, from values alone: pure, and run again whenever a threshold moves."""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..errors import InputError
from .duplicates import Copy
from .rows import DROP, FAILED, KEEP, Row
from .terms import Terms, allowed

_OPERATORS = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(>=|<=|==|>|<)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
_MODES = {"required": {"required": True}, "flag": {"flag": True}}
OFF = "off"


@dataclass(frozen=True)
class Decision:
    """The verdict on a row, and the first thing that led to it.

    Attributes:
        stage, reason: of the rule or failure that decided; empty for "keep".
        measured, limit: the value, and the condition it did not fulfil.
        flags: conditions that only flag. unscored: values with a condition that nobody computed.
        reached: the stage that decided, or for "keep" the last that looked at the row.
    """

    verdict: str = KEEP
    stage: str = ""
    reason: str = ""
    measured: Any = None
    limit: str = ""
    flags: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    reached: str = ""


class Rule(Protocol):
    """Judges rows that a stage has looked at. Pure."""

    stage: str

    def judge(self, row: Row) -> Decision:
        """ "keep", perhaps with flags, or "drop"."""


@dataclass(frozen=True)
class Limit:
    """A row is kept if its value fulfils every condition.

    Attributes:
        value: "stage.name"; the name is also the reason.
        conditions: (operator, number).
        required: drop a row without this value ("not_scored"); else it passes.
        flag: only flag, never drop.
        after: judge after this stage; "": after the value's own.
    """

    value: str
    conditions: tuple[tuple[str, float], ...]
    required: bool = False
    flag: bool = False
    after: str = ""

    @property
    def stage(self) -> str:
        return self.after or self.value.partition(".")[0]

    @classmethod
    def parse(cls, value: str, text: str) -> "Limit":
        """Read ">= 1024", "> 0.05, < 0.95", "required >= 4.5" or "flag == 0". InputError."""
        word, _, rest = text.strip().partition(" ")
        conditions = rest if word in _MODES else text
        matches = [_CONDITION.fullmatch(part) for part in conditions.split(",")]
        try:
            pairs = tuple((match[1], float(match[2])) for match in matches)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"keep.{value} is {text!r}; write a condition such as '>= 1024', "
                "'> 0.05, < 0.95', 'flag == 0', 'required > 4.5', or 'off'"
            ) from error
        return cls(value, pairs, **_MODES.get(word, {}))

    def judge(self, row: Row) -> Decision:
        """As a `Rule`. NaN and text fulfil nothing."""
        found = row.value(self.value)
        if found is None:
            if self.required:
                return Decision(DROP, self.stage, "not_scored", limit=str(self))
            return Decision(unscored=(self.value,))
        number = isinstance(found, (int, float))
        if number and all(_OPERATORS[sign](found, limit) for sign, limit in self.conditions):
            return Decision()
        if self.flag:
            return Decision(flags=(self.value,))
        return Decision(DROP, self.stage, self.value.partition(".")[2], found, self.text)

    @property
    def text(self) -> str:
        """The conditions as they were written."""
        return ", ".join(f"{sign} {number:.12g}" for sign, number in self.conditions)

    def __str__(self) -> str:
        mode = "flag unless " if self.flag else "required " if self.required else ""
        return f"{mode}{self.value} {self.text}"


@dataclass(frozen=True)
class LicenceRule:
    """A row is kept if the terms of its source allow all of these uses."""

    uses: tuple[str, ...]
    stage: str = "sources"

    def __str__(self) -> str:
        return f"terms allow {', '.join(self.uses)}"

    def judge(self, row: Row) -> Decision:
        """As a `Rule`."""
        if allowed(self.uses, Terms(row.origin.licence, row.origin.uses)):
            return Decision()
        limit = f"allows {', '.join(self.uses)}"
        return Decision(DROP, self.stage, "licence", row.origin.licence, limit)


@dataclass(frozen=True)
class RemovalRule:
    """A row is dropped if its file or its pixels are on the list of what must go (SHA-256)."""

    digests: frozenset[str]
    stage: str = "images"

    def __str__(self) -> str:
        return f"not among {len(self.digests):,} removed"

    def judge(self, row: Row) -> Decision:
        """As a `Rule`."""
        own = (row.value("images.sha256"), row.value("images.pixels"))
        found = next((digest for digest in own if digest in self.digests), None)
        return Decision(DROP, self.stage, "removed", found) if found else Decision()


@dataclass(frozen=True)
class ExclusionRule:
    """A row of one of these sources is never kept."""

    sources: frozenset[str]
    stage: str = "images"

    def judge(self, row: Row) -> Decision:
        """As a `Rule`."""
        if row.origin.source in self.sources:
            return Decision(DROP, self.stage, "excluded", row.origin.source)
        return Decision()


@dataclass(frozen=True)
class CopyRule:
    """A row is dropped if it repeats another one; see `duplicates`."""

    copies: Mapping[str, Copy]
    stage: str = "images"

    def judge(self, row: Row) -> Decision:
        """As a `Rule`."""
        copy = self.copies.get(row.root)
        if copy is None:
            return Decision()
        reason = "duplicate" if copy.exact else "similar"
        return Decision(DROP, self.stage, reason, copy.bits, f"repeats {copy.of}")


def by_stage(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    """Group rules by the stage they follow, in order."""
    grouped: dict[str, list[Rule]] = {}
    for rule in rules:
        grouped.setdefault(rule.stage, []).append(rule)
    return grouped


def decide(row: Row, rules: Mapping[str, Sequence[Rule]]) -> Decision:
    """Judge a row by what was found about it, stage by stage; the first that drops it decides.

    rules: by stage, see `by_stage`.
    """
    decision, flags, unscored = Decision(), [], []
    for stage, found in row.found.items():
        if found.failure is not None:
            decision = Decision(FAILED, stage, found.failure.code, found.failure.detail)
        for rule in () if found.failure else rules.get(stage, ()):
            decision = rule.judge(row)
            flags += decision.flags
            unscored += decision.unscored
            if decision.verdict != KEEP:
                break
        decision = replace(decision, reached=stage)
        if decision.verdict != KEEP:
            break
    return replace(decision, flags=tuple(flags), unscored=tuple(unscored))


def parse_limits(keep: Mapping[str, Mapping[str, str]]) -> Iterable[Limit]:
    """Limits of the `[keep]` tables. Raises InputError."""
    for stage, table in keep.items():
        for name, text in table.items():
            if text.strip() != OFF:
                yield Limit.parse(f"{stage}.{name}", text)
