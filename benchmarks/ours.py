"""Our side of a comparison: one method per stage, on the library's public API."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import editmgt_lib
from editmgt_lib.errors import Cancelled, EditMGTError
from editmgt_lib.loader import load_tokenizer, load_transformer, offload_model, set_tf32
from editmgt_lib.localization.maps import LocalizationOptions, consolidate
from editmgt_lib.pictures.canvas import Canvas, Tokens
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.precision import own_precision
from editmgt_lib.sampling.loop import sample_tokens
from editmgt_lib.sampling.noise import ItemNoise, SharedNoise
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.predictor import Predictor
from editmgt_lib.settings import Settings
from editmgt_lib.text.encoders import TextEncoders

from .cases import PROMPT, Case, instruction_of
from .clock import measured, set_precision


class Ours:
    """The library, loaded from a folder `write_checkpoint` made, in one precision."""

    def __init__(
        self, case: Case, folder: Path, inputs: dict[str, Tensor], device: str, precision: str
    ) -> None:
        self.case, self.device, self.inputs = case, device, inputs
        self.model = _open(case, folder, device, set_precision(precision))
        set_tf32(self.model, precision == "tf32")
        self.instruction = instruction_of(inputs)
        self._compiled: EditMGT | None = None

    def measure(self, stage: str, **asked: Any) -> dict[str, Any]:
        """Time one stage; `missing` says why there is nothing to time."""
        if stage == "text" and self.model.text_encoders is None:
            return {"missing": "no text encoders in this configuration"}
        try:
            with own_precision(self.model.transformer):  # some stages are called in parts
                return getattr(self, stage)(**asked)
        except EditMGTError as error:  # not finite in float16, out of memory
            return {"missing": f"raises {type(error).__name__}: {str(error)[:90]}"}

    def text(self) -> dict[str, Any]:
        """One prompt and the checkpoint's negative prompt."""
        return measured(lambda: self.model.encode_instruction(PROMPT), self.device)

    def tokenize(self) -> dict[str, Any]:
        """Picture to token ids."""
        found: list[Tokens] = []
        taken = measured(
            lambda: found.append(self.model.encode_image(self._picture())), self.device
        )
        return taken | {"ids": found[0].ids.cpu()}

    def prepare(self, **asked: Any) -> dict[str, Any]:
        """What the steps of a run have in common."""
        return measured(lambda: self._predictor(self._tokens(), **asked), self.device)

    def step(self, batch: int = 1, **asked: Any) -> dict[str, Any]:
        """The first step of a run, everything masked: predict, localize, draw, reveal."""
        tokens = self._tokens(batch)
        predictor = self._predictor(tokens, **asked)
        return measured(lambda: self._first_step(predictor, tokens), self.device)

    def draw(self) -> dict[str, Any]:
        """Token draw and reveal of the first step, its prediction being given."""
        tokens = self._tokens()
        predictor = self._predictor(tokens)
        masked = self._masked(tokens)
        rows = torch.arange(masked[0].numel(), device=self.device).expand(len(masked), -1)
        given = predictor(masked, 0, rows)
        return measured(lambda: self._first_step(lambda *_: given, tokens), self.device)

    def consolidate(self) -> dict[str, Any]:
        """From mean attention to the relevance map."""
        grid = (self.case.side // self.case.transformer.stride,) * 2
        scores = torch.rand(1, grid[0] * grid[1]).to(self.device)
        return measured(lambda: consolidate(scores, grid, LocalizationOptions()), self.device)

    def decode(self) -> dict[str, Any]:
        """Token ids to a picture."""
        tokens = replace(self._tokens(), source_ids=None)
        return measured(lambda: self.model.decode(tokens), self.device)

    def sample(
        self,
        steps: int,
        published_draw: bool = False,
        region: float = 1.0,
        compiled: bool = False,
        recorded: bool = False,
        batch: int = 1,
        **asked: Any,
    ) -> dict[str, Any]:
        """A whole sampling run from given tokens.

        published_draw: reproduce the official draws. region: fraction of the picture, its upper
        rows, that may change. recorded: steps as CUDA graphs. batch: pictures that go through the
        network together.
        """
        draw = "race" if published_draw else "inverse"
        tokens, options = self._tokens(batch), self._options(steps=steps, draw=draw, **asked)
        area = torch.zeros(1, *tokens.canvas.size)
        area[:, : round(region * tokens.canvas.height)] = 1
        ids: list[Tensor] = []

        def run() -> None:
            noise = SharedNoise(torch.Generator().manual_seed(0), draw) if published_draw else None
            edited, _ = model.sample(
                tokens, self.instruction, options, localization=_reading(asked), noise=noise,
                region=area if region < 1 else None, batched=batch > 1,
            )  # fmt: skip
            ids.append(edited.ids)

        with self._running(compiled, recorded) as model:
            return measured(run, self.device, memory=True) | {"ids": ids[0].cpu()}

    @contextmanager
    def _running(self, compiled: bool, recorded: bool) -> Iterator[EditMGT]:
        """The model with compiled blocks, or with its steps recorded as CUDA graphs."""
        model = self.compiled() if compiled else self.model
        if not recorded:
            yield model
            return
        model.transformer.records = True
        try:
            yield model
        finally:
            model.transformer.records = False

    def compiled(self) -> EditMGT:
        """A copy of the model with compiled blocks; a compiled model cannot run plainly again."""
        if self._compiled is None:
            transformer = copy.deepcopy(self.model.transformer)
            transformer.compile_blocks()
            self._compiled = EditMGT(transformer, self.model.vq, None, self.model.settings)
        return self._compiled

    def edit(
        self,
        steps: int,
        offload: str = "none",
        text: bool = False,
        compiled: bool = False,
        recorded: bool = False,
        **asked: Any,
    ) -> dict[str, Any]:
        """Picture to picture; `text`: from the prompt instead of ready text states."""
        options = self._options(steps=steps, **asked)

        def run() -> None:
            instruction = model.encode_instruction(PROMPT) if text else self.instruction
            tokens = model.encode_image(self._picture())
            edited, _ = model.sample(tokens, instruction, options, localization=_reading(asked))
            model.decode(edited)

        with self._offloaded(offload), self._running(compiled, recorded) as model:
            return measured(run, self.device, memory=True)

    @contextmanager
    def _offloaded(self, offload: str) -> Iterator[None]:
        """Offload the networks as `load` would."""
        model, place = self.model, torch.device(self.device)
        if offload == "none":
            yield
            return
        networks = [model.transformer, model.vq]
        if model.text_encoders is not None:
            networks += [model.text_encoders.clip, model.text_encoders.gemma]
        offload_model(model.to("cpu"), place, offload)
        try:
            yield
        finally:
            for network in networks:
                del network.execution
            model.to(place)

    def _picture(self) -> Tensor:
        return self.inputs["picture"].permute(0, 2, 3, 1).contiguous()

    def _tokens(self, batch: int = 1) -> Tokens:
        ids = self.inputs["reference"].expand(batch, -1, -1)
        pixels = self.case.side * self.case.vq.factor
        return Tokens(ids, Canvas.blank(batch, pixels, pixels, self.case.vq.factor), ids)

    def _masked(self, tokens: Tokens) -> Tensor:
        mask_id = self.case.transformer.mask_token_id
        return torch.full_like(tokens.ids, mask_id, device=self.device)

    def _options(self, layers: object = None, **asked: Any) -> SamplingOptions:
        default = {"steps": self.case.steps, "guidance": self.case.guidance, "strength": 1.0}
        asked = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
        return SamplingOptions(**{**default, **asked})

    def _predictor(self, tokens: Tokens, **asked: Any) -> Predictor:
        options, reading = self._options(**asked), _reading(asked)
        return Predictor(self.model.transformer, tokens, self.instruction, options, reading)

    def _first_step(self, predict: Callable, tokens: Tokens) -> None:
        options = self._options()
        try:
            sample_tokens(
                predict, self._masked(tokens), options=options,
                noise=ItemNoise(options.seeds(len(tokens.ids)), options.draw),
                mask_id=self.case.transformer.mask_token_id,
                codes=self.case.transformer.codebook_size,
                source=tokens.ids.to(self.device), callback=lambda event: False,
            )  # fmt: skip
        except Cancelled:
            return


def _reading(asked: dict[str, Any]) -> LocalizationOptions | None:
    layers = asked.get("layers")
    return None if layers is None else LocalizationOptions(layers=tuple(layers))


def _open(case: Case, folder: Path, device: str, dtype: torch.dtype) -> EditMGT:
    if case.trained:
        return editmgt_lib.load("toyworld", device=device, dtype=dtype)
    settings = Settings(resolution=case.side * case.vq.factor, text_length=case.text_length)
    place = torch.device(device)
    encoders = None
    if case.text_encoders is not None:
        encoders = TextEncoders.from_folder(folder, place, dtype, case.text_length)
    transformer = load_transformer(folder / "editmgt", place, dtype)
    return EditMGT(transformer, load_tokenizer(folder / "vqvae", place), encoders, settings)
