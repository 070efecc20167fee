"""What a reader gives: rows, or the reason why one was skipped; and the count of both."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError

PART_ROWS = 256  # rows of a part, where a reader is free to choose
LEAST_JUDGED = 50  # rows read before the fraction of skipped ones means anything
EXAMPLES = 3  # kept per reason

Encoded = bytes | Path
"""A picture as a file's content, or as a file."""


@dataclass(frozen=True, repr=False)
class Row:
    """A pair, or a picture with a caption where `source` is None.

    Attributes:
        id: stable while the data set is.
        kind: of edit ("background change"); may be empty.
        prompt: instruction or caption.
    """

    id: str
    kind: str
    prompt: str
    target: Encoded
    source: Encoded | None = None

    @property
    def key(self) -> int:
        """Hash of the id, 0..2**64-1: what the row's draws and its split are keyed by."""
        return key_of(self.id)


def key_of(id: str) -> int:
    """Hash of a row's id, 0..2**64-1."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used: a reason to count by, and what exactly was wrong."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a data set, the unit that processes share.

    Attributes:
        name: of the file. index: of the part within the file.
        rows: None where the file must be fetched to know.
    """

    name: str
    index: int
    rows: int | None


def clean(text: str) -> str:
    """Replace what UTF-8 cannot hold: halves of characters, bytes of odd file names."""
    return text.encode("utf-8", "replace").decode()


class Reader(Protocol):
    """Rows of one data set, always in the same order."""

    edits: bool  # pairs, not captioned pictures
    fingerprint: str  # of files and settings, not of where they lie
    parts: tuple[Part, ...]
    notes: tuple[str, ...]  # what is odd about the data set as a whole
    commit: str  # of a repository; empty for files on this machine

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows start..stop of a part; a row that cannot be read never ends it."""


@dataclass
class RowCounts:
    """How many rows were read, used and skipped, and why."""

    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def use(self) -> None:
        """Count a row that was used."""
        self.read += 1
        self.used += 1

    def skip(self, row: Skipped) -> None:
        """Count a row that was skipped."""
        self.read += 1
        self.skipped[row.reason] += 1
        examples = self.examples.setdefault(row.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{row.id}: {row.detail}" if row.detail else row.id)

    def add(self, other: "RowCounts") -> None:
        """Add the counts of other rows."""
        self.read += other.read
        self.used += other.used
        self.skipped.update(other.skipped)
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += examples[: EXAMPLES - len(mine)]

    @property
    def skipped_share(self) -> float:
        """Fraction of rows that were skipped."""
        return sum(self.skipped.values()) / max(1, self.read)

    def check(self, most: float, final: bool = False) -> None:
        """Raise InputError if more than a fraction `most` of the rows was skipped.

        final: judge few rows too.
        """
        if self.skipped_share > most and (final or self.read >= LEAST_JUDGED):
            raise InputError(
                f"{self.skipped_share:.1%} of the rows cannot be used, more than max_skipped "
                f"{most:.1%}; mend the data or raise max_skipped. {self.summary()}"
            )

    def summary(self) -> str:
        """Describe the counts in a line per reason."""
        lines = [f"{self.read:,} rows read, {self.used:,} used"]
        for reason, count in self.skipped.most_common():
            lines.append(f"{count:,} skipped: {reason} ({'; '.join(self.examples[reason])})")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it back."""
        return {"read": self.read, "used": self.used, "skipped": dict(self.skipped),
                "examples": self.examples}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RowCounts":
        """Read what `to_dict` gave."""
        examples = {reason: list(found) for reason, found in data["examples"].items()}
        return cls(data["read"], data["used"], Counter(data["skipped"]), examples)
