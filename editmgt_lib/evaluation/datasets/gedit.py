"""GEdit-Bench, the English half: 606 instructions of users in 11 tasks, scored by a judge.

Two keys occur twice, so items are told apart by row as well; published result files are named by
key alone, where one picture then stands for two items.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..items import Item, Store
from .reading import cell, item_id, keep_picture, require_counts
from .tables import find_table

COUNTS = {
    "background_change": 40, "color_alter": 40, "material_alter": 40, "motion_change": 40,
    "ps_human": 70, "style_change": 60, "subject-add": 60, "subject-remove": 57,
    "subject-replace": 60, "text_change": 99, "tone_transfer": 40,
}  # fmt: skip


@dataclass(frozen=True)
class GEdit:
    """The rows in English; the data holds the Chinese ones too."""

    name: str = "gedit-en"
    counts: Mapping[str, int] = field(default_factory=lambda: COUNTS)
    average = "tasks"
    metrics = ("l1/source/fit-output", "clip-i/vit-b-32/source", "dino/v1-s-16/source")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the published tables."""
        return tuple(self.counts)

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        table = find_table(data, None, self.name)
        texts = ("instruction_language", "task_type", "key")
        rows = enumerate(table.rows(texts))
        english = {n: row for n, row in rows if row["instruction_language"] == "en"}
        require_counts(self.name, self.counts, (row["task_type"] for row in english.values()))
        last = {row["key"]: n for n, row in english.items()}
        columns = (*texts, "instruction", "Intersection_exist", "input_image", "input_image_raw")
        for number, row in enumerate(table.rows(columns)):
            if number in english:
                # A mapping by key, as others use, keeps the last of equal ones: 604 items.
                double = last[row["key"]] != number
                yield self._item(number, row, double, store)

    def _item(self, number: int, row: Mapping[str, Any], double: bool, store: Store) -> Item:
        where = f"{self.name} row {number}"
        source = keep_picture(row["input_image"], store, f"{where}: input_image")
        raw = keep_picture(row["input_image_raw"], store, f"{where}: input_image_raw")
        key = cell(row, "key", str, where)
        return Item(
            id=item_id(self.name, number, key),
            task=row["task_type"],
            instruction=cell(row, "instruction", str, where),
            source=source,
            cluster=source,
            exclusions=("duplicate-key",) if double else (),
            extra={
                "key": key,
                "raw": raw,
                "intersection": cell(row, "Intersection_exist", bool, where),
            },
        )
