"""A curation with all stages, written through the store by stages that invent what they find."""

import io
from dataclasses import dataclass, field, fields

import numpy as np
from PIL import Image

from editmgt_lib.curation import config as configs
from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.config import config_from
from editmgt_lib.curation.decoding import decode_picture
from editmgt_lib.curation.executor import EngineOptions, Workers, run_shard
from editmgt_lib.curation.images import ImageStage
from editmgt_lib.curation.rows import Failure, Found
from editmgt_lib.curation.saved import save_config
from editmgt_lib.curation.store import claim, claim_stage
from editmgt_lib.curation.verdicts import decide_all

STAGES = ("images", "instructions", "edits", "quality")
KINDS = (
    ("add", "add a lamp on the table", "lamp"),
    ("remove", "remove the lamp", "lamp"),
    ("background change", "put a beach behind it", "background"),
)
APACHE = {"editor": "open", "editor_licence": "Apache-2.0",
          "editor_uses": ["publish", "train", "train-noncommercial", "commercial"]}  # fmt: skip
CLOSED = {"editor": "closed", "editor_licence": "FLUX.1-dev-Non-Commercial-1.1.1",
          "editor_uses": ["publish"]}  # fmt: skip
_SERVER = {"url": "http://127.0.0.1:9/v1", "model": "owner/model"}
BACKENDS = {
    "writers": {"pen": {"kind": "openai", **_SERVER}},
    "editors": {"open": {"kind": "openai-images", "terms": "Apache-2.0", **_SERVER}},
    "judges": {"judge": {"kind": "openai", **_SERVER}},
}
"""Named in the configuration and never asked."""


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(number, size=(48, 32)):
    """A picture that passes all filters at a small size."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    return np.kron(small, np.ones((4, 4, 1), np.uint8))


@dataclass(frozen=True)
class Instructions:
    """Three instructions a picture."""

    name = "instructions"
    batch = 1
    missing = ()
    settings = {"version": 1}

    def __call__(self, rows):
        return [Found(parts=tuple(self.part(*kind) for kind in KINDS)) for _ in rows]

    @staticmethod
    def part(category, instruction, object):
        return Found(
            {
                "category": category, "instruction": instruction, "object": object,
                "caption": "a table", "target_caption": "a table and a lamp", "writer": "pen",
                "tries": 1, "words": len(instruction.split()), "spatial": "",
            }
        )  # fmt: skip


@dataclass(frozen=True)
class Edits:
    """Paints a square; what `broken` says of a picture's key fails, `closed` has another editor."""

    broken: frozenset = frozenset()
    closed: frozenset = frozenset()
    size: tuple = ()

    name = "edits"
    batch = 1
    missing = ()
    settings = {"version": 1}

    def __call__(self, rows):
        return [self.one(row) for row in rows]

    def one(self, row):
        if row.origin.key in self.broken:
            return Found(failure=Failure("refused", "the editor said no"))
        pixels = decode_picture(row.encoded()).rgb.copy()
        if self.size:
            pixels = np.asarray(Image.fromarray(pixels).resize(self.size))
        pixels[4:20, 4:20] = len(row.id) * 7 % 256
        height, width = pixels.shape[:2]
        seed = int(row.root[:6], 16)
        return Found(
            {
                **(CLOSED if row.origin.key in self.closed else APACHE),
                "revision": "1.2", "seed": seed, "width": width, "height": height,
                "sent_width": width, "sent_height": height,
                "candidates": [{"editor": "open", "seed": seed, "failure": ""}],
                "chosen_by": "only", "agreed": None, "judge": "judge",
            },
            {"edited": png(pixels)},
        )  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """Measures next to nothing; rows of a kind in `undone` are no-ops."""

    undone: frozenset = frozenset()
    rewritten: str = ""

    name = "quality"
    batch = 1
    missing = ()
    settings = {"version": 1}

    def __call__(self, rows):
        return [self.one(row) for row in rows]

    def one(self, row):
        before, after = (decode_picture(row.encoded(name)).rgb for name in ("", "edits.edited"))
        mask = np.zeros(after.shape[:2], np.uint8)
        mask[4:20, 4:20] = 255
        values = {
            "changed": float((mask > 0).mean()), "outside": 0.0, "shift_x": 1.0, "shift_y": -2.0,
            "zoom": 1.0, "residual": 0.5, "clip_direction": None, "clip_image": None, "dino": None,
            "instruction": 8.0, "preservation": 9.0, "quality": 7.5, "rewritten": self.rewritten,
            "noop": int((row.origin.key, row.value("instructions.category")) in self.undone),
        }  # fmt: skip
        assert before.ndim == 3
        return Found(values, {"mask": png(mask)})


@dataclass(frozen=True)
class Curated:
    """How to make a folder; see `make`."""

    pictures: int = 6
    licence: str = "CC-BY-4.0"
    size: tuple = (48, 32)
    shard_rows: int = 4
    edits: Edits = field(default_factory=Edits)
    quality: Quality = field(default_factory=Quality)
    keep: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    stages: tuple = STAGES

    def make(self, folder, monkeypatch):
        """Curate invented pictures under `folder`; gives the curated folder."""
        pictures = folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        for number in range(self.pictures):
            path = pictures / f"{number:03d}.png"
            if not path.exists():
                path.write_bytes(png(noise(number, self.size)))
        if "quality" not in configs.VALUES:
            monkeypatch.setitem(configs.VALUES, "quality", ("noop", "changed", "clip_direction"))
        keep = {"images": {"short_side": ">= 16"}, "quality": {"noop": "== 0"}, **self.keep}
        source = {"name": "photos", "path": str(pictures), "licence": self.licence}
        known = {field.name for field in fields(configs.CurationConfig)}
        tables = {role: made for role, made in BACKENDS.items() if role in known}
        config = config_from({"sources": [source], "keep": keep, **tables, **self.tables})
        return self.run(folder / "curated", config)

    def run(self, out, config):
        claim(out)
        save_config(out, config, self.stages)
        curation = Curation(out, {s.name: s for s in config.sources}, self.stages)
        curation.list_new(self.shard_rows)
        decide_all(curation, config.rules(), config.duplicates)
        made = (ImageStage(), Instructions(), self.edits, self.quality)
        for stage in made[: len(self.stages)]:
            claim_stage(out, stage.name, stage.settings)
            with Workers(stage, EngineOptions()) as workers:
                for shard in curation.shards:
                    run_shard(curation, stage, shard, workers, lambda row, found: None)
            decide_all(curation, config.rules(), config.duplicates)
        return out
