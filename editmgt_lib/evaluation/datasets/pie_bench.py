"""PIE-Bench: 700 pictures of 512 x 512 with masks and captions, in ten kinds of edit.

Given out by a form; without a licence. The hub's mirror PIE_Bench_pp has other prompts and is
another benchmark.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..items import Item, Store
from .masks import mask_bytes, run_length_mask
from .reading import (
    PictureFolder,
    caption_defects,
    captions,
    cell,
    item_id,
    keep_picture,
    read_json,
    require_counts,
)

COUNTS = {
    "random": 140, "change-object": 80, "add-object": 80, "delete-object": 80, "content": 40,
    "pose": 40, "color": 40, "material": 40, "background": 80, "style": 80,
}  # fmt: skip
"""Kinds in the order of their numbers, from 0."""


@dataclass(frozen=True)
class PieBench:
    """All items; `data` holds mapping_file.json and annotation_images."""

    name: str = "pie-bench"
    counts: Mapping[str, int] = field(default_factory=lambda: COUNTS)
    average = "items"
    metrics = (
        "structure/dino-b-8-pie/source/fit-output",
        "psnr-zeroed/source/fit-output",
        "lpips-zeroed/squeeze/source/fit-output",
        "l2-zeroed/source/fit-output",
        "ssim-zeroed/torchmetrics-1.4.2/source/fit-output",
        "clip-t/vit-l-14/output",
        "clip-t-edited/vit-l-14/output",
        "psnr-outside/source/fit-output",
        "l1-outside/source/fit-output",
        "changed-outside/t8/source/fit-output",
        "leak/squared/source/fit-output",
        "change-iou/t8/source/fit-output",
    )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Kinds of edit."""
        return tuple(self.counts)

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        rows = read_json(data / "mapping_file.json", dict)
        require_counts(self.name, self.counts, (self._task(k, row) for k, row in rows.items()))
        pictures = PictureFolder(data)
        paths = [
            pictures.find(f"annotation_images/{cell(row, 'image_path', str, _where(key))}")
            for key, row in rows.items()
        ]
        pictures.check()
        for number, (key, row) in enumerate(rows.items()):
            yield self._item(number, key, row, paths[number], store)

    def _task(self, key: str, row: Mapping[str, Any]) -> str:
        kind = str(row.get("editing_type_id")) if isinstance(row, Mapping) else "?"
        return self.tasks[int(kind)] if kind in map(str, range(len(self.tasks))) else f"type {kind}"

    def _item(
        self, number: int, key: str, row: Mapping[str, Any], source: str, store: Store
    ) -> Item:
        texts = captions(
            input=_plain(row.get("original_prompt")), output=_plain(row.get("editing_prompt"))
        )
        try:
            mask = run_length_mask(cell(row, "mask", list, _where(key)))
        except InputError as error:
            raise InputError(f"{_where(key)}: {error}") from error
        return Item(
            id=item_id(self.name, number, key),
            task=self._task(key, row),
            instruction=cell(row, "editing_instruction", str, _where(key)),
            source=source,
            cluster=source,
            mask=keep_picture(mask_bytes(mask), store, _where(key)),
            captions=texts,
            exclusions=caption_defects(texts),
            extra={"key": key, "blended_word": str(row.get("blended_word") or "")},
        )


def _plain(prompt: Any) -> Any:
    """Without the square brackets around words that change."""
    return prompt.replace("[", "").replace("]", "") if isinstance(prompt, str) else prompt


def _where(key: str) -> str:
    return f"mapping_file.json item {key}"
