"""Stages as a run's file describes them, built from the results of earlier ones or a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import resolve
from ..checkpoints.layout import MEISSONIC, layout_of
from ..checkpoints.packed import exists
from ..data.opening import open_source
from ..data.source import TokenSource
from ..errors import CheckpointError, InputError
from ..loader import choose_dtype, load_tokenizer, load_transformer
from ..lora import Lora
from ..models.attention import AttentionFunction
from ..models.backends import math_attention, sdpa
from ..models.transformer import MaskedTransformer
from ..models.vq import VQModel
from ..settings import Settings
from ..text.encoders import TextEncoders
from . import layers
from .config import GENERATION, RunConfig, StageConfig, sources_of
from .decoder import DecoderStage
from .generation import GenerationStage
from .initial import code_features, new_text_encoders, new_transformer, seed_with_codes
from .lora import add_adapter, new_lora
from .options import LoraOptions
from .parallel import World
from .progress import draw_edits, draw_generated
from .stage import Stage
from .stage_one import load_stage_one_text, start_stage_one
from .text import TextStage
from .tokenizer import TokenizerStage
from .validation import validate


def _adapt(transformer: MaskedTransformer, options: LoraOptions, seed: int) -> None:
    """Give a transformer an adapter to train and freeze the rest."""
    o = options
    if o.start:
        lora = Lora.read(o.start)
    else:
        lora = new_lora(
            transformer, o.targets, rank=o.rank, alpha=o.alpha, scope=o.scope, seed=seed
        )
    add_adapter(transformer, lora)


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
        encoders = self._encoders(stage)
        transformer = self._transformer(stage, vq, encoders)
        if stage.lora:
            _adapt(transformer, stage.lora, c.seed)
        if c.engine.recompute:
            transformer.recompute_blocks()
        if c.engine.compiled:
            transformer.compile_blocks()
        return GenerationStage(
            transformer,
            encoders,
            self._source(stage, vq.to(self.device), encoders),
            stage.objective,
            vq=vq,
            settings=self._settings(stage),
            seed=c.seed,
            device=self.device,
            precision=self.precision,
            draw_sheet=self._sheet(stage),
        )

    def _encoders(self, stage: StageConfig) -> TextEncoders:
        length = self.config.text_length
        dtype = choose_dtype("auto", self.device) if self.start else torch.float32
        if self.from_base:
            gemma = Path(self.config.language_model)
            if not self.config.language_model or not exists(gemma / "config.json"):
                raise InputError(
                    f"language_model is {str(gemma)!r}; name a folder of Gemma's weights and "
                    "tokenizer, which the base model lacks"
                )
            return load_stage_one_text(self.start, gemma, length, dtype)
        folder = self._part(stage, "llm_encoder", "text").parent
        return TextEncoders.from_folder(folder, dtype=dtype, text_length=length)

    @property
    def from_base(self) -> bool:
        """Whether the run starts from the base model of stage 1."""
        return self.start is not None and layout_of(self.start) is MEISSONIC

    def _transformer(
        self, stage: StageConfig, vq: VQModel, encoders: TextEncoders
    ) -> MaskedTransformer:
        # On short sequences, CPUs compute the backward pass of plain products faster.
        attention = math_attention if self.device.type == "cpu" else sdpa
        c = self.config
        before = c.stages[: [s.name for s in c.stages].index(stage.name)]
        makers = [s.name for s in before if s.kind in GENERATION and not s.lora]
        if makers:
            part = self._part(stage, "editmgt", makers[-1], [self.folder])
        elif self.from_base:
            width = encoders.widths[0]
            return start_stage_one(self.start, width, c.seed, attention, layers)[0].requires_grad_()
        elif self.start is not None:
            part = self.start / layout_of(self.start).transformer
        elif stage.kind == "text-to-image":
            return self._new_transformer(vq, attention)
        else:
            raise InputError(
                f"stage {stage.name!r} has no network to start from; name a checkpoint to `start` "
                "from, or put a text-to-image stage before it"
            )
        model = load_transformer(part, torch.device("cpu"), torch.float32, layers, attention)
        if c.transformer and model.config != c.transformer:
            raise CheckpointError(f"{part} has other sizes than the run's [transformer]")
        return model.requires_grad_()

    def _new_transformer(self, vq: VQModel, attention: AttentionFunction) -> MaskedTransformer:
        c, sizes = self.config, self._sizes("transformer")
        model = new_transformer(sizes, c.seed)
        features = code_features(vq, c.size, sizes.width // sizes.stride**2, c.seed)
        seed_with_codes(model, features, c.seed)
        model.attention = attention
        return model

    def _settings(self, stage: StageConfig) -> Settings:
        """Default settings of the run's checkpoint."""
        c = self.config
        before = Settings.read(self.start) if self.start else Settings(edits=False)
        settings = c.settings or before
        done = c.stages[: [s.name for s in c.stages].index(stage.name) + 1]
        edits = before.edits or any(s.kind == "edit" for s in done)
        return replace(settings, resolution=c.size, text_length=c.text_length, edits=edits)

    def _sheet(self, stage: StageConfig) -> Callable[..., None] | None:
        if sources_of(self.config, stage)[0].get("kind") != "toyworld":
            return None
        return draw_edits if stage.kind == "edit" else draw_generated

    # --- samples ---

    def _source(
        self, stage: StageConfig, vq: VQModel, encoders: TextEncoders, split: str = "train"
    ) -> TokenSource:
        tables, c = sources_of(self.config, stage), self.config
        if split != "train":
            tables = tables[:1]  # validation wants samples of one kind
        data = tables[0] if len(tables) == 1 else {"sources": tables}
        return open_source(
            data, vq=vq, size=c.size, seed=c.seed, encoders=encoders, group=stage.loop.batch,
            split=split,
        )  # fmt: skip

    def validation(
        self, stage: StageConfig, built: Stage, world: World
    ) -> Callable[[], dict[str, float]] | None:
        """Function that measures the present weights; None where there is nothing to measure."""
        options = stage.validation
        if options is None or not isinstance(built, GenerationStage):
            return None
        heldout = self._source(stage, built.vq, built.text_encoders, "held-out")

        def measure() -> dict[str, float]:
            tally = validate(built, heldout, options, world.rank, world.size)
            return flat(tally.reduced(world.total, world.largest).summary(options))

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
