"""Writers, editors and judges of a few lines, for tests of the stages that ask them."""

import json
from threading import Lock
from unittest.mock import patch

import numpy as np
from PIL import Image

from editmgt_lib.curation import run
from editmgt_lib.curation.backends import RUBRIC, Answer, Backends, Edited, NoAnswer, Sizing
from editmgt_lib.curation.config import VALUES, config_from
from editmgt_lib.curation.rows import Unavailable
from editmgt_lib.curation.terms import FREE, Terms

OBJECTS = [
    {"name": "cup", "count": 1, "where": "left"},
    {"name": "plate", "count": 3, "where": "bottom right"},
]
CAPTION = {"caption": "A red cup and three plates on a brown background.", "objects": OBJECTS}
GOOD = {
    "add": ("Add a spoon to the table", "spoon"),
    "replace": ("Replace the cup with a jug", "cup"),
    "remove": ("Remove the cup", "cup"),
    "color": ("Make the cup green", "cup"),
    "background change": ("Change the background to a beach", "background"),
    "style": ("Turn the picture into a woodcut", "picture"),
    "motion change": ("Tip the cup over", "cup"),
}


def instruction(category, text=None, about=None):
    good = GOOD[category]
    return {"category": category, "instruction": text or good[0], "object": about or good[1],
            "caption": ""}  # fmt: skip


class FakeBackend:
    """What all share: counted calls, and what they raise."""

    revision = "1"

    def __init__(self, name, raises=None):
        self.name, self.raises, self.calls, self._lock = name, raises, [], Lock()

    def check(self):
        pass

    def describe(self):
        return {"name": self.name}

    def called(self, *what):
        with self._lock:
            self.calls.append(what)
        if self.raises == "down":
            raise Unavailable(f"{self.name} is down")
        if isinstance(self.raises, Exception):
            raise self.raises
        if self.raises:
            raise NoAnswer(self.raises, f"{self.name} said so", self.raises != "timeout")


class FakeWriter(FakeBackend):
    """Writes from lists of tries, or what is asked for. write: by the number of the try."""

    def __init__(self, name="w", tries=(), raises=None, caption=CAPTION):
        super().__init__(name, raises)
        self.tries, self.described = tries, caption

    def caption(self, pixels, seed):
        self.called("caption", seed)
        return Answer(self.described, {"cost": 1})

    def write(self, caption, counts, seed, pixels=None, faults=(), wishes=None):
        self.calls.append(("write", dict(counts), seed, list(faults), dict(wishes)))
        number = sum(call[0] == "write" for call in self.calls) - 1
        written = [instruction(name) for name, n in counts.items() for _ in range(n)]
        if self.tries:
            written = self.tries[min(number, len(self.tries) - 1)]
        if isinstance(written, Exception):
            raise written
        return Answer({"instructions": written}, {"cost": 2})


class FakeEditor(FakeBackend):
    """Paints a picture over with one grey level."""

    def __init__(self, name, level=0, raises=None, sizing=None, terms=None, shape=None):
        super().__init__(name, raises)
        self.level, self.sizing, self.shape = level, sizing or Sizing(), shape
        self.terms = terms or Terms("Apache-2.0", FREE)

    def edit(self, pixels, instruction, seed, size=None):
        self.called(pixels.shape, instruction, seed)
        made = np.full(self.shape or pixels.shape, self.level, np.uint8)
        return Edited(made, {"sent": [pixels.shape[1] + 8, pixels.shape[0]]})


class FakeJudge(FakeBackend):
    """Prefers the lighter picture; answers: always the same."""

    def __init__(self, name="j", answer=None, raises=None):
        super().__init__(name, raises)
        self.answer = answer

    def compare(self, before, first, second, instruction, category):
        assert instruction and category in GOOD
        self.called(before.shape, int(first.max()), int(second.max()))
        one, other = int(first.max()), int(second.max())
        better = "tie" if one == other else "first" if one > other else "second"
        return Answer({"better": self.answer or better}, {"cost": 3})

    def rate(self, before, after, instruction, category):
        return Answer(dict.fromkeys(RUBRIC, 10))


def backends(writers=(), editors=(), judges=()):
    roles = ({one.name: one for one in role} for role in (editors, writers, judges))
    return Backends(*roles, {})


def config(folder, made, keep=None, **options):
    """Configuration whose tables name the back ends, and thresholds that keep any picture."""
    images = dict.fromkeys(
        ("short_side", "entropy", "brightest", "darkest", "sharpness", "colours"), "off"
    )
    named = {role: {name: {} for name in getattr(made, role)} for role in
             ("writers", "editors", "judges")}  # fmt: skip
    any_edit = dict.fromkeys(VALUES["quality"], "off")
    source = {"name": "p", "path": str(folder), "licence": "own"}
    return config_from({
        "sources": [source], "keep": {"images": images, "quality": any_edit, **(keep or {})},
        "duplicates": {"distance": -1}, "engine": {"workers": 1, "shard_rows": 2},
        **named, **options,
    })  # fmt: skip


def save_pictures(folder, count, size=(40, 24)):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", size, (9, 20 * number, 200)).save(folder / f"{number}.png")
    return folder


def start(folder, out, made, **options):
    """Run a curation with these back ends; what became of its rows up to the edits."""
    with patch.object(run, "open_backends", lambda _: made):
        found = run.curate(config(folder, made, **options), out)
    return [stage for stage in found if stage.stage != "quality"]


def lines(out, stage):
    """What a stage wrote, row by row."""
    files = sorted((out / stage).glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]
