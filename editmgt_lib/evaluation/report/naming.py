"""What a column means: which way is better, and what a failed item counts as."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import InputError
from ..metrics import find

_JUDGED = {
    "gedit/sc": "semantic consistency: is the instruction followed, and only it? 0..10",
    "gedit/pq": "perceptual quality, 0..10",
    "gedit/o": "square root of SC times PQ, per item, 0..10",
    "imgedit": "mean of three criteria of 1 to 5, none above the first",
}
_LOWEST = {"imgedit": 1.0}  # of a judge's scale, 0 elsewhere


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
    """Look a metric up; unknown names are those of judges, which are better higher."""
    try:
        metric = find((name,))[0]
        return Meaning(name, metric.meaning, metric.better, metric.worst)
    except InputError:
        pass
    protocol, _, rest = name.lower().partition("/")
    criterion = rest.partition("/")[0]
    text = _JUDGED.get(f"{protocol}/{criterion}", _JUDGED.get(protocol, "a score by a judge"))
    return Meaning(name, f"{criterion or name}, judged: {text}", "higher",
                   _LOWEST.get(protocol, 0.0), True)  # fmt: skip


def meanings_of(names: Iterable[str]) -> dict[str, Meaning]:
    """By name, in order, repeats dropped."""
    return {name: meaning_of(name) for name in dict.fromkeys(names)}
