"""Emu Edit's test set: 3,589 instructions with captions, no targets, no masks.

The hub has it twice: the test set, and the same rows with Emu Edit's own outputs, where the names
of the two splits are swapped. So a split is told by its number of rows, and the two are joined by
hash and instruction. AnySD scores against those outputs, most others against the source; here are
both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..items import Item, Store
from .reading import caption_defects, captions, cell, item_id, keep_picture
from .tables import Table, find_table

GENERATIONS = "generations"
"""Sub-folder of the data for the set with Emu Edit's own outputs; optional."""

# The authors replaced these shards, and revisions up to 3f08e286 hold some beside their successors.
STALE = ("628ebd70f33b38fe", "d0947fe0db8b10aa", "0a14114eb2f63780", "b38cc66c1cf4b196",
         "486321bba718bd12")  # fmt: skip

_KEY = ("hash", "instruction")
_TEXTS = (*_KEY, "task", "idx", "input_caption", "output_caption")
_FIT, _OWN = "source/fit-output", "emu-output/fit-output"


@dataclass(frozen=True)
class EmuEdit:
    """The split with `rows` rows: 3,589 are the hub's "test", 2,022 its "validation"."""

    name: str = "emu-edit"
    rows: int = 3589
    # As the paper lists them; a task that the data names otherwise keeps its own name.
    tasks = ("background", "global", "style", "remove", "add", "local", "color")
    average = "items"
    metrics = (
        "clip-i/vit-b-32/source",
        "clip-t/vit-b-32/output",
        "clip-dir/vit-b-32/input-output",
        "dino/v1-s-16/source",
        f"l1/{_FIT}",
        "clip-i/vit-b-32/emu-output",
        "dino/v1-s-16/emu-output",
        f"l1/{_OWN}",
        f"l2/{_OWN}",
    )

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        table = find_table(data, self.rows, self.name, STALE)
        outputs = self._outputs(data, table, store)
        own = ("edited_image",) if "edited_image" in table.columns else ()
        for number, row in enumerate(table.rows((*_TEXTS, "image", *own))):
            yield self._item(number, row, outputs and outputs.find(row), store)

    def _outputs(self, data: Path, table: Table, store: Store) -> "_Outputs | None":
        """Emu Edit's own outputs of all rows; None without their folder."""
        if not (data / GENERATIONS).is_dir():
            return None
        outputs = find_table(data / GENERATIONS, self.rows, f"{self.name}'s outputs", STALE)
        known = set(map(_key, outputs.rows(_KEY)))
        if lost := sum(_key(row) not in known for row in table.rows(_KEY)):
            raise InputError(
                f"{lost:,} rows of {self.name} have no output in {data / GENERATIONS}; fetch the "
                "split with as many rows there (the two names are swapped on the hub)"
            )
        return _Outputs(outputs, store)

    def _item(self, number: int, row: Mapping[str, Any], own: str | None, store: Store) -> Item:
        where = f"{self.name} row {number}"
        source = keep_picture(row["image"], store, f"{where}: image")
        if "edited_image" in row:  # the set with outputs, given alone
            own = keep_picture(row["edited_image"], store, f"{where}: edited_image")
        texts = captions(input=row["input_caption"], output=row["output_caption"])
        idx = cell(row, "idx", int, where)
        return Item(
            id=item_id(self.name, number, idx),
            task=cell(row, "task", str, where),
            instruction=cell(row, "instruction", str, where),
            source=source,
            cluster=source,
            captions=texts,
            exclusions=caption_defects(texts),
            extra={"key": str(idx), **({"emu_output": own} if own else {})},
        )


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["hash"], row["instruction"]


class _Outputs:
    """Outputs by key, read as far as they are asked for: mostly in the order of the test set."""

    def __init__(self, table: Table, store: Store) -> None:
        self._rows, self._store = table.rows((*_KEY, "edited_image")), store
        self._found: dict[tuple[str, str], str] = {}

    def find(self, row: Mapping[str, Any]) -> str:
        """The stored output of a row that has one."""
        while _key(row) not in self._found:
            other = next(self._rows)
            where = f"{GENERATIONS}: edited_image of row {other['hash']}"
            self._found[_key(other)] = keep_picture(other["edited_image"], self._store, where)
        return self._found[_key(row)]
