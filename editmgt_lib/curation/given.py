"""Stage `instructions` without a writer: rows bring theirs along."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .rows import Failure, Found, Row

MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class GivenInstructions:
    """Takes a row's own instruction, else one for all."""

    instruction: str = ""

    name = "instructions"
    batch = 1
    missing = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"given": self.instruction}

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        text = str(row.value("sources.instruction", "")).strip() or self.instruction
        if not text:
            return Found(failure=Failure("no_instruction", "the list has none for this row"))
        if len(text) > MOST_CHARACTERS:
            return Found(failure=Failure("bad_instruction", f"it has {len(text)} characters"))
        category = row.value("sources.category", "")
        return Found({"instruction": text, "category": category, "writer": "given"})
