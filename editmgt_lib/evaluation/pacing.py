"""How a stage goes on: progress, and when so much fails that going on is pointless."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError

Progress = Callable[[str, int, int, int], None]
"""Called after each item with (what is done, items done, total, failed); may raise to stop."""
MAX_FAILED = 0.2
"""Share of failures above which a stage stops."""
_ENOUGH = 20  # items that say something about all


@dataclass
class Pace:
    """Counts the items of one stage.

    label: what is done, for the user. max_failed: 0..1; 1 never stops.
    """

    label: str
    total: int
    max_failed: float = MAX_FAILED
    progress: Progress | None = None
    done: int = 0
    failed: int = 0
    first_reason: str = ""

    def step(self, failed: bool = False, reason: str = "") -> None:
        """Count one more item. Raises InputError if too many failed."""
        self.done += 1
        if failed:
            self.first_reason = self.first_reason or reason
            self.failed += 1
        if self.progress is not None:
            self.progress(self.label, self.done, self.total, self.failed)
        enough = self.done >= min(_ENOUGH, self.total)
        if failed and enough and self.failed > self.max_failed * self.done:
            advice = ", or allow more with --max-failed" if self.max_failed else ""
            raise InputError(
                f"{self.label}: {self.failed} of {self.done} items failed, more than the share of "
                f"{self.max_failed:g}; the first: {self.first_reason}; mend that and run again"
                f"{advice}"
            )
