"""Stages as a run's file describes them, built from the results of earlier ones or a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import resolve
from ..checkpoints.packed import exists
from ..data.mixed import Mixed
from ..data.source import TokenSource
from ..data.toyworld import ToyWorldSource
from ..errors import CheckpointError, InputError
from ..loader import choose_dtype, load_tokenizer, load_transformer
from ..models.attention import AttentionFunction
from ..models.backends import math_attention, sdpa
from ..models.transformer import MaskedTransformer
from ..models.vq import VQModel
from ..settings import Settings
from ..text.encoders import TextEncoders
from . import layers
from .config import GENERATION, RunConfig, StageConfig
from .decoder import DecoderStage
from .generation import GenerationStage
from .initial import code_features, new_text_encoders, new_transformer, seed_with_codes
from .parallel import World
from .progress import draw_edits, draw_generated
from .stage import Stage
from .text import TextStage
from .tokenizer import TokenizerStage
from .validation import validate

# The part of a checkpoint that a kind of stage writes, for later stages to read.
PART = {
    "text": "llm_encoder",
    "tokenizer": "vqvae",
    "text-to-image": "editmgt",
    "edit": "editmgt",
    "decoder": "vqvae",
}


class Builder:
    """Builds the stages of a run.

    Args:
        config: the run. folder: its checkpoint, which finished stages have written parts of.

    Raises CheckpointError where there is no checkpoint to start from.
    """

    def __init__(self, config: RunConfig, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.start = resolve(config.start) if config.start else None
        self.precision = getattr(torch, config.engine.precision)

    def stage(self, stage: StageConfig) -> Stage:
        """Build a stage.

        Raises CheckpointError if what it starts from is missing or does not fit the run.
        """
        c = self.config
        if stage.kind == "text":
            sizes = self._sizes("transformer")
            return TextStage(new_text_encoders(sizes, c.text_length, c.seed), c.seed, self.device)
        if stage.kind == "tokenizer":
            return TokenizerStage(
                self._sizes("tokenizer"), c.size, c.seed, stage.continuous, self.device,
                self.precision,
            )  # fmt: skip
        vq = load_tokenizer(self._part(stage, "vqvae", "tokenizer"), torch.device("cpu"))
        if stage.kind == "decoder":
            return DecoderStage(vq, c.size, c.seed, self.device, self.precision)
        return self._generation(stage, vq)

    def _generation(self, stage: StageConfig, vq: VQModel) -> GenerationStage:
        c = self.config
        found = self._part(stage, "llm_encoder", "text").parent
        dtype = choose_dtype("auto", self.device) if self.start else torch.float32
        encoders = TextEncoders.from_folder(found, dtype=dtype, text_length=c.text_length)
        transformer = self._transformer(stage, vq)
        if c.engine.recompute:
            transformer.recompute_blocks()
        if c.engine.compiled:
            transformer.compile_blocks()
        return GenerationStage(
            transformer,
            encoders,
            self._source(stage, vq.to(self.device), heldout=False),
            stage.objective,
            vq=vq,
            settings=self.settings,
            seed=c.seed,
            device=self.device,
            precision=self.precision,
            draw_sheet=self._sheet(stage),
        )

    def _transformer(self, stage: StageConfig, vq: VQModel) -> MaskedTransformer:
        # On short sequences, CPUs compute the backward pass of plain products faster.
        attention = math_attention if self.device.type == "cpu" else sdpa
        c, cpu = self.config, torch.device("cpu")
        earlier = [s for s in c.stages if s.kind in GENERATION][0]
        if earlier.name != stage.name:
            part = self._part(stage, "editmgt", earlier.name, [self.folder])
        elif self.start is not None:
            part = self._part(stage, "editmgt", "text-to-image", [self.start])
        elif stage.kind == "edit":
            raise InputError(
                f"stage {stage.name!r} has no network to start from; name a checkpoint to `start` "
                "from, or put a text-to-image stage before it"
            )
        else:
            return self._new_transformer(vq, attention)
        model = load_transformer(part, cpu, torch.float32, layers, attention)
        if c.transformer and model.config != c.transformer:
            raise CheckpointError(f"{part} has other sizes than the run's [transformer]")
        return model.requires_grad_(True)

    def _new_transformer(self, vq: VQModel, attention: AttentionFunction) -> MaskedTransformer:
        c, sizes = self.config, self._sizes("transformer")
        model = new_transformer(sizes, c.seed)
        features = code_features(vq, c.size, sizes.width // sizes.stride**2, c.seed)
        seed_with_codes(model, features, c.seed)
        model.attention = attention
        return model

    @property
    def settings(self) -> Settings:
        """Default settings of the run's checkpoint."""
        c = self.config
        settings = c.settings or (Settings.read(self.start) if self.start else Settings())
        return replace(settings, resolution=c.size, text_length=c.text_length)

    def _sheet(self, stage: StageConfig) -> Callable[..., None] | None:
        if self._data(stage).get("kind") != "toyworld":
            return None
        return draw_edits if stage.kind == "edit" else draw_generated

    # --- samples ---

    def _data(self, stage: StageConfig) -> Mapping[str, Any]:
        return stage.data or self.config.data

    def _source(self, stage: StageConfig, vq: VQModel, heldout: bool) -> TokenSource:
        data, c = dict(self._data(stage)), self.config
        if not data:
            raise InputError(f"stage {stage.name!r} has no data; add a [data] table to the run")
        kind = data.pop("kind", None)
        if kind == "toyworld":
            return self._toyworld(stage, vq, heldout, **data)
        from ..data.opening import open_source

        return open_source(
            {"kind": kind, **data}, vq=vq, size=c.size, seed=c.seed, edit=stage.kind == "edit",
            heldout=heldout,
        )  # fmt: skip

    def _toyworld(
        self, stage: StageConfig, vq: VQModel, heldout: bool, generate_share: float = 0.0
    ) -> TokenSource:
        c = self.config
        tasks = {"edit": 1 - generate_share, "generate": generate_share}
        if stage.kind != "edit" or heldout:
            task = "edit" if stage.kind == "edit" else "generate"
            return ToyWorldSource(vq, c.size, c.seed, task, heldout)
        tasks = {task: share for task, share in tasks.items() if share}
        sources = [ToyWorldSource(vq, c.size, c.seed, task) for task in tasks]
        if len(sources) == 1:
            return sources[0]
        return Mixed(sources, list(tasks.values()), c.seed, group=stage.loop.batch)

    def validation(
        self, stage: StageConfig, built: Stage, world: World
    ) -> Callable[[], dict[str, float]] | None:
        """Function that measures the present weights; None where there is nothing to measure."""
        options = stage.validation
        if options is None or not isinstance(built, GenerationStage):
            return None
        heldout = self._source(stage, built.vq, heldout=True)

        def measure() -> dict[str, float]:
            tally = validate(built, heldout, options, world.rank, world.size)
            summary = tally.reduced(world.total, world.largest).summary(options)
            return flat(summary)

        return measure

    # --- networks ---

    def _sizes(self, name: str) -> Any:
        sizes = getattr(self.config, name)
        if sizes is None:
            raise InputError(f"the run trains from scratch, so it needs a table [{name}] of sizes")
        return sizes

    def _part(
        self, stage: StageConfig, part: str, earlier: str, places: Sequence[Path] = ()
    ) -> Path:
        """Folder of a part: this run's, else that of the checkpoint to start from."""
        places = places or [self.folder, *([self.start] if self.start else [])]
        found = (place / part for place in places)
        if path := next((p for p in found if exists(p / "config.json")), None):
            return path
        raise CheckpointError(
            f"stage {stage.name!r} starts from {places[0] / part}, which is missing; train stage "
            f"{earlier!r} first" + ("" if self.start else ", or name a checkpoint to `start` from")
        )


def flat(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures as one table with names like "by_ratio/0.5/loss"; None is left out."""
    table: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            table |= flat(value, f"{prefix}{name}/")
        elif value is not None:
            table[prefix + name] = value
    return table
