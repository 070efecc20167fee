"""What a benchmark consists of, and what is found out about it: items and scores, as JSON lines.

prepare --items.jsonl--> generate --pictures--> score, judge --scores-*.jsonl--> report

Every stage reads only the files of those before it, so each can run apart, on another machine, and
go on where it stopped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import isinf
from pathlib import Path
from typing import Any, Protocol

STATUSES = ("ok", "failed", "n/a")


@dataclass(frozen=True)
class Item:
    """One edit to make and to score.

    Pictures are paths relative to the folder of the data or, after "run:", to that of the run,
    where `prepare` puts what it takes out of archives and tables.

    Attributes:
        id: unique within the dataset and safe as a file name; never a basename or key alone.
        task: group in the report.
        cluster: equal for items that are not independent, such as edits of one picture.
        instruction: what the editor is told.
        source: picture to edit. reference: the wanted result. mask: 1 (white) where to edit.
        captions: by kind, as "input", "output", "local", "global".
        exclusions: known defects of this item by name; rows with them can be left out by name.
        turn: position in a chain of edits, from 1; 0 outside chains. previous: id of the item
            whose result is this one's source when chains are run as chains.
        extra: what only the dataset's own metrics read.
    """

    id: str
    task: str
    instruction: str
    source: str
    cluster: str = ""
    reference: str | None = None
    mask: str | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    exclusions: tuple[str, ...] = ()
    turn: int = 0
    previous: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Item":
        """The item of `to_dict`."""
        return cls(**{**values, "exclusions": tuple(values.get("exclusions", ()))})


@dataclass(frozen=True)
class Score:
    """One metric of one item.

    Attributes:
        metric: name with everything that changes the number, as in "clip-i/vit-b-32/source".
        value: None unless the status is "ok". inf where nothing differs (PSNR); JSON, which has no
            such number, holds "inf", and any Score made of it has inf again.
        status: "ok"; "failed" (counts as the worst value unless the report is told to drop it);
            "n/a" where the metric is undefined, with the reason.
    """

    item: str
    metric: str
    value: float | None
    status: str = "ok"
    reason: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            object.__setattr__(self, "value", float(self.value))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        infinite = self.value is not None and isinf(self.value)
        return asdict(self) | ({"value": str(float(self.value))} if infinite else {})


class Dataset(Protocol):
    """A benchmark on disk."""

    name: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]  # scored by default

    def items(self, data: Path, store: "Store") -> Iterator[Item]:
        """Read all items, in the order of the data.

        Raises InputError for wrong counts, missing files and broken rows: the name, the value and
        what to do.
        """


class Store(Protocol):
    """Keeps bytes of a picture in the run's folder."""

    def __call__(self, name: str, data: bytes) -> str:
        """Write them once, unchanged; returns what `Item.source` and its like hold."""
