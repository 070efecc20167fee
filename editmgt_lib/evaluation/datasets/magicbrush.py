"""MagicBrush: sessions of one to three edits in a row, with targets and masks.

The test set comes as a protected zip and must not be spread: its pictures stay where the user
unzipped them. Only the masks are made anew, as black and white; see `masks.alpha_mask`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..items import Item, Store
from .chains import Key, Place, places_of
from .masks import alpha_mask, mask_bytes
from .reading import (
    PictureFolder,
    captions,
    cell,
    keep_picture,
    picture_bytes,
    read_json,
)
from .tables import find_table

SESSIONS = "edit_sessions.json"
_OUTPUT = re.compile(r".*output(\d+)\.\w+")


@dataclass(frozen=True)
class MagicBrush:
    """The test set of 1,053 turns, or "magicbrush-dev", read from its zip's folder or the hub's.

    Each turn starts from the published picture before it; an item's `previous` gives the chain for
    the other setting, in which every turn starts from the last result and only `final` ones count.
    """

    name: str = "magicbrush"
    turns: int = 1053
    sessions: int = 535
    tasks = ("edit",)
    average = "items"
    metrics = (
        "l1/target/fit-output",
        "l2/target/fit-output",
        "clip-i/vit-b-32/target",
        "dino/v1-s-16/target",
        "clip-t/vit-b-32/local",
        "l1-outside/source/fit-output",
        "l1-inside/target/fit-output",
        "psnr-outside/source/fit-output",
        "changed-outside/t8/source/fit-output",
        "leak/squared/source/fit-output",
        "change-iou/t8/source/fit-output",
    )

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        if (data / SESSIONS).is_file():
            return self._unzipped(data, store)
        if not any(data.glob("**/*.parquet")):
            raise InputError(
                f"{data} holds neither {SESSIONS}, of the authors' zip, nor parquet files, which "
                "the hub has of dev alone; give the folder that holds one of them"
            )
        return self._from_hub(data, store)

    def _unzipped(self, data: Path, store: Store) -> Iterator[Item]:
        sessions = read_json(data / SESSIONS, dict)
        rows = {key: row for session in sessions for key, row in _turns(session, sessions[session])}
        places = places_of(self.name, self.turns, self.sessions, list(rows))
        local = read_json(data / "local_descriptions.json", dict)
        wide = read_json(data / "global_descriptions.json", dict)
        folder = PictureFolder(data)
        pictures = {
            key: {kind: folder.find(f"images/{key[0]}/{cell(row, kind, str, _where(key))}")
                  for kind in ("input", "output", "mask")}
            for key, row in rows.items()
        }  # fmt: skip
        folder.check()
        for key, row in rows.items():
            found, after = pictures[key], _described(wide, key, row["output"])
            texts = captions(
                input=_described(wide, key, row["input"]),
                output=after,
                local=_described(local, key, row["output"]),
                **{"global": after},
            )
            mask = (data / found["mask"]).read_bytes()
            both = found["input"], found["output"]
            yield self._item(key, places[key], row, both, mask, store, texts, _defects(key, row))

    def _from_hub(self, data: Path, store: Store) -> Iterator[Item]:
        table = find_table(data, self.turns, self.name)
        keys = [
            (cell(row, "img_id", str, self.name), cell(row, "turn_index", int, self.name))
            for row in table.rows(("img_id", "turn_index"))
        ]
        places = places_of(self.name, self.turns, self.sessions, keys)
        columns = ("source_img", "target_img", "mask_img", "instruction")
        for key, row in zip(keys, table.rows(columns), strict=True):
            pictures = tuple(
                keep_picture(row[name], store, f"{_where(key)}: {name}") for name in columns[:2]
            )
            mask = picture_bytes(row["mask_img"], f"{_where(key)}: mask_img")
            yield self._item(key, places[key], row, pictures, mask, store)

    def _item(
        self, key: Key, place: Place, row: Mapping[str, Any], pictures: Sequence[str], mask: bytes,
        store: Store, texts: Mapping[str, str] | None = None, defects: tuple[str, ...] = (),
    ) -> Item:  # fmt: skip
        region = alpha_mask(mask, _where(key))
        return Item(
            id=place.id,
            task=self.tasks[0],
            instruction=cell(row, "instruction", str, _where(key)),
            source=pictures[0],
            cluster=key[0],
            reference=pictures[1],
            mask=None if region is None else keep_picture(mask_bytes(region), store, _where(key)),
            captions=texts or {},
            exclusions=defects + ("no-region",) * (region is None),
            turn=key[1],
            previous=place.previous,
            extra={"key": key[0], "final": place.final},
        )


def _turns(session: str, rows: Any) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Turns of a session by the number in the target's file name, never by their order."""
    for row in rows if isinstance(rows, list) else [rows]:
        output = cell(row, "output", str, f"{SESSIONS}: session {session}")
        number = _OUTPUT.fullmatch(output)
        if number is None:
            raise InputError(
                f"{SESSIONS}: session {session} has output {output!r}, not output1.png"
            )
        yield (session, int(number[1])), row


def _defects(key: Key, row: Mapping[str, Any]) -> tuple[str, ...]:
    before = "input" if key[1] == 1 else f"output{key[1] - 1}"
    chained = Path(row["input"]).stem.endswith(before)
    return () if chained else ("source-is-not-the-last-target",)


def _described(descriptions: Mapping[str, Any], key: Key, name: str) -> Any:
    found = descriptions.get(key[0])
    return found.get(name.strip()) if isinstance(found, Mapping) else None


def _where(key: Key) -> str:
    return f"turn {key[1]} of session {key[0]}"
