"""What a back end is: four narrow roles, and what they give or raise.

Picture in, picture or plain values out. A back end loads what it needs at its first use, so that it
can be made, checked, described and sent to another process at no cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from ...data.draws import draws
from ...errors import EditMGTError, InputError
from ..rows import Failure, Unavailable
from ..terms import Terms
from .sizes import Sizing

Pixels = np.ndarray
"""uint8 [H, W, 3]."""
Size = tuple[int, int]
"""Width and height."""
ALONE = Lock()
"""Held while a model works in this process: pipelines keep state that two threads would mix."""
CATEGORIES = ("add", "replace", "remove", "color", "background change", "style", "motion change")
"""CrispEdit-2M's own names, as its `type` column has them."""

NO_WISHES: Mapping[str, Mapping[str, str]] = MappingProxyType({})


class NoAnswer(EditMGTError):
    """A back end has nothing for this row; other rows may fare better."""

    def __init__(self, code: str, detail: str = "", lasting: bool = True) -> None:
        super().__init__(f"{code}: {detail}")
        self.failure = Failure(code, detail, lasting)

    def __reduce__(self) -> tuple[Any, ...]:
        return NoAnswer, (self.failure.code, self.failure.detail, self.failure.lasting)


class Backend(Protocol):
    """What the four roles share.

    Attributes:
        name: in the configuration. revision: of model and code, as far as known.
    """

    name: str
    revision: str

    def check(self) -> None:
        """Raise InputError for what it lacks: a package, a folder, a server. Loads no weights."""

    def describe(self) -> dict[str, Any]:
        """All that decides its answers, as plain data; equal descriptions, equal answers."""


@dataclass(frozen=True, eq=False)
class Edited:
    """facts: plain data on how it was made: sizes sent and received, seed, costs."""

    pixels: Pixels
    facts: Mapping[str, Any] = field(default_factory=dict)


class Editor(Backend, Protocol):
    """Edits pictures by instruction. terms: of its outputs. sizing: what it takes unscaled."""

    terms: Terms
    sizing: Sizing

    def edit(self, pixels: Pixels, instruction: str, seed: int, size: Size | None = None) -> Edited:
        """Edit one picture. size: of the result, the picture's own by default.

        seed: from `seed_of`. Raises NoAnswer, Unavailable.
        """


@dataclass(frozen=True)
class Answer:
    """values: as the role says. raw: the model's own words and what they cost, plain data."""

    values: Mapping[str, Any]
    raw: Mapping[str, Any] = field(default_factory=dict)


class Writer(Backend, Protocol):
    """Describes pictures, and writes instructions for them."""

    def caption(self, pixels: Pixels, seed: int) -> Answer:
        """values: "caption", "objects" ([{"name", "count", "where"}]). Raises NoAnswer."""

    def write(
        self,
        caption: Mapping[str, Any],
        counts: Mapping[str, int],
        seed: int,
        pixels: Pixels | None = None,
        faults: Sequence[Mapping[str, str]] = (),
        wishes: Mapping[str, Mapping[str, str]] = NO_WISHES,
    ) -> Answer:
        """Write so many instructions of each category.

        caption: values of `caption`. faults: earlier instructions that were refused:
        {"category", "instruction", "reason"}. wishes: for variety, by category {"verb", "theme"};
        a writer follows them where they fit. values: "instructions", a list of {"category",
        "instruction", "object", "caption"}; object: what it is about, caption: of the result, "" if
        unknown; "box", if the writer knows where the object is: left, top, right, bottom as
        fractions. Fewer may come than were asked for. Raises NoAnswer.
        """

    def rewrite(
        self, before: Pixels, after: Pixels, instruction: str, category: str, seed: int
    ) -> Answer:
        """Write the instruction for what an edit really did.

        instruction: what was asked for. values: "instruction", "" if nothing can be said. Raises
        NoAnswer.
        """


class Judge(Backend, Protocol):
    """Compares and rates edits."""

    def compare(
        self, before: Pixels, first: Pixels, second: Pixels, instruction: str, category: str
    ) -> Answer:
        """Say which of two results is better. values: "better": "first", "second" or "tie"."""

    def rate(self, before: Pixels, after: Pixels, instruction: str, category: str) -> Answer:
        """Rate a result by the rubric. values: RUBRIC's names, numbers 0..10."""


RUBRIC = ("instruction", "preservation", "quality")
"""What `Judge.rate` rates: was it done, and nothing else, and does it look right."""


class Scorer(Backend, Protocol):
    """Scores pictures. gives: the names of its values."""

    gives: tuple[str, ...]

    def score(self, pixels: Pixels) -> Answer:
        """values: numbers by the names in `gives`. Raises NoAnswer."""


@dataclass(frozen=True)
class Preference:
    """What a judge prefers, asked in both orders.

    Attributes:
        winner: 0 or 1; None for a tie, or where the order decided. agreed: both answers say so.
        answers: of the judge, the second with the pictures swapped.
    """

    winner: int | None
    agreed: bool
    answers: tuple[Answer, Answer]


def prefer(
    judge: Judge,
    before: Pixels,
    candidates: tuple[Pixels, Pixels],
    instruction: str,
    category: str,
) -> Preference:
    """Ask in both orders; only agreement counts. Raises NoAnswer."""
    first, second = candidates
    answers = (
        judge.compare(before, first, second, instruction, category),
        judge.compare(before, second, first, instruction, category),
    )
    places = {"first": 0, "second": 1, "tie": None}
    one, other = (places[answer.values["better"]] for answer in answers)
    agreed = one == (None if other is None else 1 - other)
    return Preference(one if agreed else None, agreed, answers)


def seed_of(seed: int, row: str, editor: str, attempt: int = 0) -> int:
    """Seed 0..2**32-1 of an edit: the same on any worker and after any resume."""
    from ...data.rows import key_of

    purpose = f"edit {editor} {attempt}"
    return int(draws(seed, key_of(row), purpose).integers(1 << 32))


def unavailable(who: str, error: Exception) -> Unavailable:
    """What stops the run: no other row can be answered either."""
    return Unavailable(f"{who}: {error}")


def lacks(who: str, what: str, fix: str) -> InputError:
    """The error of `check`."""
    return InputError(f"{who} lacks {what}; {fix}")


def require_file(who: str, place: Path, member: str = "") -> None:
    """Raise InputError unless a file, or a member of a folder, exists."""
    if not (place / member if member else place).is_file():
        what = f"{place}{f' with {member}' if member else ''}"
        raise lacks(who, what, "give the folder or file it was downloaded to")
