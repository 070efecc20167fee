"""What a column means: which way is better, and what a failed item counts as."""

from collections.abc import Iterable
from dataclasses import dataclass

from .judging import scale
from .metrics import find


@dataclass(frozen=True)
class Meaning:
    """A metric as the report explains it; judged: by a language model, not computed."""

    name: str
    meaning: str
    better: str
    worst: float
    judged: bool = False

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.better == "higher" else -1


def meaning_of(name: str) -> Meaning:
    """Look a metric or a judge's score up.

    Raises InputError for any other name: which way is better would be a guess.
    """
    if (judged := scale(name)) is not None:
        return Meaning(name, judged.meaning, "higher", judged.worst, judged=True)
    metric = find((name,))[0]
    return Meaning(name, metric.meaning, metric.better, metric.worst)


def meanings_of(names: Iterable[str]) -> dict[str, Meaning]:
    """By name, in order, repeats dropped. Raises InputError as `meaning_of`."""
    return {name: meaning_of(name) for name in dict.fromkeys(names)}
