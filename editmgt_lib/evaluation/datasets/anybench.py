"""AnyBench (AnyEdit-Test): 25 types of edit with 50 items each, with machine-made targets.

Output captions exist for some types only, so CLIP against the caption is n/a for the others.
Seven types need a second picture as a prompt; items of these are excluded by "visual-prompt".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..items import Item, Store
from .reading import PictureFolder, captions, cell, item_id, read_json, require_counts

GROUPS = {
    "local": (
        "replace", "add", "remove", "color_alter", "appearance_alter", "material_change",
        "action_change", "counting", "textual_change",
    ),
    "global": ("tone_transfer", "background_change", "style_change"),
    "camera": ("movement", "outpaint", "resize", "rotation_change"),
    "implicit": ("relation", "implicit_change"),
    "visual": (
        "visual_material_transfer", "visual_reference", "visual_bbox", "visual_depth",
        "visual_scribble", "visual_segment", "visual_sketch",
    ),
}  # fmt: skip
"""Types by group; the score of a group is the unweighted mean of its types' scores."""

_GROUP = {task: group for group, tasks in GROUPS.items() for task in tasks}
_RESULTS = "edit_result.json"
_INNER = "anybench"  # folder of the zip, with which the names of pictures begin


@dataclass(frozen=True)
class AnyBench:
    """All types; `data` is the folder of the types or the one that holds it as "anybench"."""

    name: str = "anybench"
    each: int = 50
    tasks = tuple(_GROUP)
    groups = GROUPS
    average = "tasks"
    metrics = (
        "clip-i/vit-b-32/target",
        "clip-t/vit-b-32/output",
        "dino/v1-s-16/target",
        "dino/v2-b-14/target",
        "l1/target/fit-target",
    )

    def items(self, data: Path, store: Store) -> Iterator[Item]:
        """Read all items; see `Dataset`."""
        inner = f"{_INNER}/" if (data / _INNER).is_dir() else ""
        if not any((data / inner / task).is_dir() for task in self.tasks):
            raise InputError(f"{data} holds no folders of {self.name} (add, remove, replace, ...)")
        rows = [
            (task, number, row)
            for task in self.tasks
            if (data / inner / task / _RESULTS).is_file()
            for number, row in enumerate(read_json(data / inner / task / _RESULTS, list))
        ]
        expected = dict.fromkeys(self.tasks, self.each)
        require_counts(self.name, expected, (task for task, _, _ in rows))
        pictures = PictureFolder(data)
        items = [
            self._item(at, *row, inner=inner, pictures=pictures) for at, row in enumerate(rows)
        ]
        pictures.check()
        yield from items

    def _item(
        self, at: int, task: str, number: int, row: Mapping[str, Any], inner: str,
        pictures: PictureFolder,
    ) -> Item:  # fmt: skip
        where = f"{task}/{_RESULTS} item {number}"

        def find(name: str) -> str:
            # Relative to the folder around "anybench", as published; or to one of those inside.
            path = cell(row, name, str, where)
            short = path.removeprefix(f"{_INNER}/")
            return pictures.find(*dict.fromkeys((path, inner + short, f"{inner}{task}/{short}")))

        source, prompt = find("image_file"), row.get("visual_input")
        visual = isinstance(prompt, str) and prompt.strip() not in ("", "None")
        return Item(
            id=item_id(self.name, at, task, Path(source).stem),
            task=task,
            instruction=cell(row, "edit", str, where),
            source=source,
            cluster=source,
            reference=find("edited_file"),
            captions=captions(input=row.get("input"), output=row.get("output")),
            exclusions=("visual-prompt",) if visual else (),
            extra={
                "key": Path(source).name,
                "group": _GROUP[task],
                **({"visual_input": find("visual_input")} if visual else {}),
            },
        )
