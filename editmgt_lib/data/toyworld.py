"""ToyWorld as an endless source of training samples, tokenized as they are drawn."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checks import require_choice
from ..errors import InputError
from ..models.vq import VQModel
from ..offload import execution_device
from ..sampling.predictor import micro_conditions
from ..toyworld.atlas import atlas
from ..toyworld.batches import bystander_pair, spare_pair, to_pixels, training_pair, training_scene
from ..toyworld.drawing import GRID
from ..toyworld.scenes import EditPair, Scene
from ..toyworld.world import VERSION, caption, render, sample_pair, sample_scene
from .draws import draws
from .fingerprints import digest, tokenizer_fingerprint
from .folders import in_parts, numbers_of
from .rows import Part, Row, Skipped
from .source import TokenBatch

TASKS = ("edit", "generate", "spare", "bystander")


class ToyWorldReader:
    """A fixed number of drawn pairs or captioned pictures, as if they were files.

    Args:
        count: number of rows, as text. size, task: as of `ToyWorldSource`; a count with a task
            behind a colon ("50:spare") has that one.
    """

    notes: tuple[str, ...] = ()
    commit = ""

    def __init__(self, count: str, size: int, task: str = "edit") -> None:
        count, _, named = count.partition(":")
        if not count.isdecimal() or not 0 < int(count) <= 10**7:
            raise InputError(f"toyworld:{count} names no number of pairs; write toyworld:1000, say")
        self.size, self.task = size, named or task
        require_choice("task", self.task, TASKS)
        self.edits = self.task != "generate"
        self.fingerprint = digest("toyworld", VERSION, count, size, self.task)
        self.parts = in_parts("toyworld", int(count))

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows of a part."""
        for number in numbers_of(part, start, stop):
            id = f"toyworld:{number}"
            if self.task != "generate":
                pair = draw_pair(0, number, task=self.task)
                pictures = (self._png(pair.target), self._png(pair.source))
                yield Row(id, pair.category, pair.instruction, *pictures)
            else:
                scene, text = draw_scene(0, number)
                yield Row(id, "", text, self._png(scene))

    def _png(self, scene: Scene) -> bytes:
        from PIL import Image

        content = BytesIO()
        Image.fromarray(render(scene, self.size)).save(content, "PNG")
        return content.getvalue()


def write_pairs(
    folder: str | Path, count: int, tasks: str | Sequence[str] = "edit", size: int = 256
) -> None:
    """Write drawn pairs as a person would have them: pictures, and a list beside them.

    count: pairs of each of `tasks`; see `ToyWorldSource`.
    """
    named = [tasks] if isinstance(tasks, str) else tasks
    readers = [ToyWorldReader(str(count), size, task) for task in named]
    folder, lines = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    rows = (row for reader in readers for part in reader.parts for row in reader.rows(part))
    for number, row in enumerate(rows):
        names = {"input": f"{number:03}-in.png", "output": f"{number:03}-out.png"}
        for name, content in zip(names.values(), (row.source, row.target), strict=True):
            (folder / name).write_bytes(content)
        lines.append({**names, "instruction": row.prompt, "type": row.kind})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")


def draw_pair(seed: int, number: int, heldout: bool = False, task: str = "edit") -> EditPair:
    """Edit pair of a number, neither of whose pictures is held out; or with a held-out source."""
    rng = draws(seed, number, "pair")
    if task == "spare":
        return spare_pair(rng, heldout)
    if task == "bystander":
        return bystander_pair(rng, heldout)
    return sample_pair(rng, heldout=True) if heldout else training_pair(rng)


def draw_scene(seed: int, number: int, heldout: bool = False) -> tuple[Scene, str]:
    """Scene of a number, and its caption."""
    rng = draws(seed, number, "scene")
    scene = sample_scene(rng, heldout=True) if heldout else training_scene(rng)
    return scene, caption(scene, rng)


class ToyWorldSource:
    """A TokenSource of ToyWorld pictures; a number's scenes and words follow from (seed, number).

    Args:
        vq: the tokenizer, on the device where it is to run.
        size: picture side in pixels.
        task: "edit" for pairs with instructions, "generate" for pictures with captions, "spare"
            for pairs that bring in the spare colour, "bystander" for those that leave it alone.
        heldout: draw from the held-out split, for validation.
    """

    def __init__(
        self, vq: VQModel, size: int, seed: int, task: str = "edit", heldout: bool = False
    ) -> None:
        require_choice("task", task, TASKS)
        self.vq, self.size, self.seed, self.task, self.heldout = vq, size, seed, task, heldout
        settings = ("toyworld", VERSION, size, seed, task, heldout)
        self.fingerprint = digest(*settings, tokenizer_fingerprint(vq))

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these numbers, on the tokenizer's device."""
        if self.task == "generate":
            drawn = [draw_scene(self.seed, n, self.heldout) for n in numbers]
            target, source = self._encode([scene for scene, _ in drawn]), None
            prompts = [text for _, text in drawn]
        else:
            pairs = [draw_pair(self.seed, n, self.heldout, self.task) for n in numbers]
            both = self._encode([p.source for p in pairs] + [p.target for p in pairs])
            source, target = both.chunk(2)
            prompts = [pair.instruction for pair in pairs]
        micro = micro_conditions(len(numbers), self.size, self.size)
        return TokenBatch(target, source, prompts, micro)

    def _encode(self, scenes: Sequence[Scene]) -> Tensor:
        """Ids [B, H, W]; together on a GPU, where many small calls would take longest."""
        device = execution_device(self.vq)
        if self.vq.config.cellwise and self.vq.config.factor == self.size // GRID:
            numbers = np.stack([atlas(self.size).numbers(scene) for scene in scenes])
            return self._cells[torch.from_numpy(numbers).to(device)]
        pixels = to_pixels(scenes, self.size, device)
        if device.type != "cpu":
            return self.vq.encode(pixels)
        return torch.cat([self.vq.encode(picture[None]) for picture in pixels])

    @cached_property
    def _cells(self) -> Tensor:
        """Id of each cell of the atlas, [N]: a fifth of a training step spared."""
        cells = torch.from_numpy(atlas(self.size).cells).to(execution_device(self.vq))
        pixels = cells.movedim(-1, 1).float().div(255)  # [N, 3, edge, edge]
        return torch.cat([self.vq.encode(some).flatten() for some in pixels.split(256)])
