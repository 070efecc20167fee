"""Options of a report."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...checks import require_choice, require_number
from ...errors import InputError
from ..statistics import FAILURES
from .figures import Counting

PICTURES = ("embed", "link", "none")


@dataclass(frozen=True)
class ReportOptions:
    """How figures are made and what the page shows. Raises InputError.

    failures: "worst" counts a failed item as the metric's worst value; "drop" leaves it out.
    exclude: leave out the items that have these known defects, by the names in `Item.exclusions`.
    draws: of the bootstrap. pictures: "embed" small ones in the page; "link" to the full ones in
    the run's and the data's folders, so that the page no longer stands alone; or "none".
    size: of the longer side of small pictures; None is the largest with which they are expected to
    take no more than `megabytes`.
    """

    failures: str = FAILURES[0]
    exclude: tuple[str, ...] = ()
    draws: int = 10_000
    pictures: str = PICTURES[0]
    size: int | None = None
    megabytes: float = 40.0

    def __post_init__(self) -> None:
        names = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", names)
        require_choice("failures", self.failures, FAILURES)
        require_choice("pictures", self.pictures, PICTURES)
        require_number("draws", self.draws, 100, 1_000_000, whole=True)
        require_number("megabytes", self.megabytes, 0)
        if self.size is not None:
            require_number("size", self.size, 16, 1024, whole=True)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ReportOptions":
        """The options given by name."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise InputError(f"the report has no option {unknown[0]!r}; use {', '.join(known)}")
        return cls(**values)

    @property
    def counting(self) -> Counting:
        """What `figures` needs."""
        return Counting(self.failures, self.draws)


DEFAULT = ReportOptions()
