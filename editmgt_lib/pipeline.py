"""EditMGT: five stages in one direction, and `edit`, which is nothing but the five in a row.

picture --encode_image--> Tokens --------+--localize--> Localization --+
                                         |                            |
text ----encode_instruction--> Instruction --------------sample--> Tokens --decode--> picture
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checks import require_choice
from .choices import COMBINATIONS
from .errors import InputError
from .localization.maps import Localization, LocalizationOptions
from .models.transformer import MaskedTransformer
from .models.vq import VQModel
from .offload import execution, execution_device, move_execution
from .pictures.canvas import Canvas, Tokens
from .pictures.compositing import composite, project_mask, support
from .pictures.fitting import FitOptions, fit
from .results import (
    Decoded,
    EditResult,
    decode_pixels,
    foreign_notes,
    memory_advice,
    stage,
    unchanged_notes,
)
from .sampling.loop import Callback, StepEvent, of_item, report
from .sampling.noise import ItemNoise, SharedNoise
from .sampling.options import SamplingOptions
from .sampling.predictor import fitting
from .sampling.run import joined, one_by_one, read_map, run_sampling
from .settings import Settings
from .text.encoders import TextEncoders
from .text.instruction import Instruction


class EditMGT:
    """A loaded checkpoint; see the methods, one per stage. Nothing is kept between calls.

    Attributes:
        transformer, vq, text_encoders: the networks; the last is None once freed.
        settings: the checkpoint's own defaults.
        folder: where it was loaded from, or None for networks built by hand.
    """

    def __init__(
        self,
        transformer: MaskedTransformer,
        vq: VQModel,
        text_encoders: TextEncoders | None,
        settings: Settings,
        folder: Path | None = None,
    ) -> None:
        self.transformer, self.vq, self.text_encoders = transformer, vq, text_encoders
        self.settings, self.folder = settings, folder

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.transformer.parameters())
        return f"EditMGT({self.folder}, {weights / 1e6:.1f} M, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""
        return execution_device(self.transformer)

    @property
    def dtype(self) -> torch.dtype:
        """Number format the transformer computes in."""
        return execution(self.transformer)[1]

    def to(self, device: torch.device | str) -> "EditMGT":
        """Move execution to another device, in place. Offloaded weights stay where they are."""
        for network in (self.transformer, self.vq):
            move_execution(network, device)
        if self.text_encoders is not None:
            self.text_encoders.to(device)
        return self

    def free_text(self) -> None:
        """Drop the text encoders; the largest part, and not needed once a prompt is encoded."""
        self.text_encoders = None

    def encode_image(
        self, image: Tensor, fit_options: FitOptions | str = "pad", mask: Tensor | None = None
    ) -> Tokens:
        """Stage 1: picture [B, H, W, C] in 0..1, any size -> tokens and the way back.

        Args:
            fit_options: `"pad"`, `"native"`, `"crop"` (around `mask`), or options in full.
            mask: [B or 1, H, W]; read where the fit is `"crop"`.

        Raises:
            InputError: a picture, mask or fit that cannot be used; OutOfMemory.
        """
        if isinstance(fit_options, str):
            resolution, factor = self.settings.resolution, self.vq.config.factor
            fit_options = FitOptions(fit_options, resolution=resolution, factor=factor)
        pixels, canvas = fit(image, fit_options, mask)
        device = execution_device(self.vq)
        with stage("tokenizing", "use a smaller picture or batch", self.vq):
            # Item by item: the same ids whatever the batch, and no more memory than one needs.
            ids = torch.cat([self.vq.encode(p[None].to(device)) for p in pixels])
        return Tokens(ids, canvas, ids, self._foreign(pixels, ids))

    def _foreign(self, pixels: Tensor, ids: Tensor) -> tuple[str, ...]:
        """A note about pictures that the tokenizer does not reproduce."""
        limit = self.settings.max_reconstruction_error
        if limit is None:
            return ()
        errors = (decode_pixels(self.vq, ids).clamp(0, 1) - pixels.cpu()).abs().mean((1, 2, 3))
        which = [k for k, error in enumerate(errors.tolist()) if error > limit]
        return foreign_notes(which, len(pixels))

    def encode_instruction(
        self, prompt: str | Sequence[str], negative: str | Sequence[str] | None = None
    ) -> Instruction:
        """Stage 2: prompt(s) -> text states, and which rows each word occupies.

        Args:
            negative: negative prompt; None takes the checkpoint's own.

        Raises:
            InputError: the text encoders were freed.
        """
        if self.text_encoders is None:
            raise InputError("the text encoders were freed; load the checkpoint again")
        less = "" if self.text_encoders.device.type == "cpu" else "load with offload 'layers', or "
        with memory_advice("encoding text", less + "use a smaller dtype or another device"):
            return self.text_encoders.encode(prompt, negative, self.settings.negative)

    def localize(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: LocalizationOptions | None = None,
        sampling: SamplingOptions | None = None,
        *,
        callback: Callback | None = None,
    ) -> Localization:
        """Stage 3: where will this instruction act? One forward pass a picture, nothing sampled.

        Args:
            options: blocks, rows, filter, and the state to read in; the checkpoint's by default.
            sampling: strength and step count of the run it stands for.
            callback: called after each picture; see `sample`.

        Raises:
            InputError: words that are not in the prompt, blocks that do not exist; OutOfMemory;
            Cancelled.
        """
        options = options or self.settings.localization
        sampling = sampling or self.settings.sampling
        items, maps = one_by_one(tokens, instruction), []
        with stage("localising", "use a smaller picture", self.transformer):
            for k, (item, prompt) in enumerate(items):
                maps.append(read_map(self.transformer, item, prompt, options, sampling))
                nothing = torch.zeros_like(item.ids, dtype=torch.bool)
                event = StepEvent(0, 1, item.ids, item.ids, None, nothing, k, len(items))
                report(event, callback)
        return joined(maps)

    def sample(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions | None = None,
        *,
        localization: Localization | LocalizationOptions | None = None,
        region: Tensor | None = None,
        combine: str = "intersection",
        callback: Callback | None = None,
        noise: ItemNoise | SharedNoise | None = None,
        batched: bool = False,
    ) -> tuple[Tokens, Localization | None]:
        """Stage 4: re-predict the tokens the instruction is about; hold the others.

        Padding around a picture is always held.

        Args:
            tokens: the picture; from `encode_image`, from an earlier `sample` (edits chain), or
                `blank_tokens` to generate.
            options: every knob; the checkpoint's own by default.
            localization: what a threshold above 0 is compared with: options, or a map whose
                options count; `update` says whether a map is read at every step or stays as it
                is. The checkpoint's own by default.
            region: [B or 1, H, W] at picture size, above 0.5 where the picture may change.
            combine: whether a token must be in the region AND relevant, or either (`"union"`);
                with a threshold of 0 the region alone counts.
            callback: called after every step of every picture; returning False or raising
                `Cancelled` stops.
            noise: random numbers of the whole batch, which then runs as with `batched`; by default
                one CPU generator per item, from the seed.
            batched: send the batch through the network together: faster on a GPU, but rounding,
                and so a token now and then, depends on the rest of the batch. Without it, the
                tokens of a picture and seed are the same in any batch.

        Returns:
            New tokens (the given ones are untouched) and the last map, or None.

        Raises:
            InputError: anything that does not fit; Cancelled; OutOfMemory.
        """
        options = options or self.settings.sampling
        require_choice("combine", combine, COMBINATIONS)
        batch = tokens.canvas.batch
        if tokens.source_ids is None and (options.threshold > 0 or region is not None):
            raise InputError("threshold and region hold parts of a picture; there is none here")
        if isinstance(localization, Localization):
            grid = tokens.canvas.rows, tokens.canvas.cols
            localization = fitting(localization, batch, grid)
        together = batched or noise is not None
        parts = [(tokens, instruction)] if together else one_by_one(tokens, instruction)
        masks = None if region is None else project_mask(region, tokens.canvas, required=True)
        reading = localization
        if reading is None and options.threshold > 0:
            reading = self.settings.localization
        seeds, results = options.seeds(batch), []
        less = "use a smaller picture, bfloat16 or guidance 1, or do without `batched`"
        with stage("sampling", less, self.transformer):
            for k, (part, prompt) in enumerate(parts):
                here = slice(k, k + part.canvas.batch)
                ready = isinstance(reading, Localization) and not together
                results.append(
                    run_sampling(
                        self.transformer,
                        part,
                        prompt,
                        options,
                        reading.item(k) if ready else reading,
                        noise or ItemNoise(seeds[here], options.draw),
                        region=None if masks is None else masks[here],
                        combine=combine,
                        callback=of_item(callback, k, len(parts)),
                    )
                )
        maps = [r.localization for r in results if r.localization is not None]
        ids = torch.cat([r.ids for r in results])
        return tokens.with_ids(ids), joined(maps) if maps else None

    def decode(self, tokens: Tokens, *, feather: float = 0.0, grow: int = 1) -> Decoded:
        """Stage 5: tokens -> picture at the original size, identical outside the support.

        The support is the changed tokens grown by `grow`. Beyond it the source's own pixels are
        kept, bit for bit; the decoder's convolutions reach `vq.config.decoder_reach` tokens, so a
        larger `grow` follows it further and keeps less.

        Args:
            feather: pixels over which the decoded picture fades in, inside the support.
            grow: tokens around each changed token.

        Raises:
            InputError: a negative feather or grow; OutOfMemory.
        """
        pixels = decode_pixels(self.vq, tokens.ids)
        if tokens.source_ids is None:
            image = composite(pixels, tokens.canvas)
            return Decoded(image, torch.ones(image.shape[:3], dtype=torch.bool, device="cpu"))
        area = support(tokens.changed.cpu(), tokens.canvas, grow)
        return Decoded(composite(pixels, tokens.canvas, area, feather), area)

    def edit(
        self,
        image: Tensor,
        prompt: str | Sequence[str],
        *,
        seed: int | tuple[int, ...] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        strength: float | None = None,
        threshold: float | None = None,
        words: Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        fit_options: FitOptions | str = "pad",
        options: SamplingOptions | None = None,
        localization: Localization | LocalizationOptions | None = None,
        region: Tensor | None = None,
        combine: str = "intersection",
        feather: float = 0.0,
        callback: Callback | None = None,
        batched: bool = False,
        **more: Any,
    ) -> EditResult:
        """Run all stages in a row; arguments as there.

        Args:
            seed, steps, guidance, strength, threshold, words, more: fields of `SamplingOptions`
                and `LocalizationOptions`; whatever is not given is the checkpoint's own.
            options, localization: a whole set of options in place of the checkpoint's own, or a
                map to hold by.

        Raises:
            InputError: as the stages, an unknown option, and an empty prompt.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise InputError(f"prompt is {prompt!r}; say what to change, as in 'make the sky red'")
        given = {"seed": seed, "steps": steps, "guidance": guidance, "strength": strength,
                 "threshold": threshold, "words": words and tuple(words), **more}  # fmt: skip
        settings = replace(self.settings, sampling=options or self.settings.sampling)
        if isinstance(localization, LocalizationOptions):
            settings = replace(settings, localization=localization)
        settings = settings.override(**given)
        if settings.localization != self.settings.localization:
            localization = localization or settings.localization
        tokens = self.encode_image(image, fit_options, region)
        instruction = self.encode_instruction(prompt, negative)
        edited, localization = self.sample(
            tokens, instruction, settings.sampling, localization=localization,
            region=region, combine=combine, callback=callback, batched=batched,
        )  # fmt: skip
        decoded = self.decode(edited, feather=feather)
        notes = (*tokens.notes, *instruction.notes, *unchanged_notes(edited))
        return EditResult(decoded.image, decoded.changed, edited, localization, notes)

    def blank_tokens(self, batch: int = 1, size: tuple[int, int] | None = None) -> Tokens:
        """All-masked tokens of a picture yet to be made; `size` is height and width in pixels."""
        height, width = size or (self.settings.resolution,) * 2
        canvas = Canvas.blank(batch, height, width, self.vq.config.factor)
        shape = (batch, canvas.rows, canvas.cols)
        mask_id = self.transformer.config.mask_token_id
        return Tokens(torch.full(shape, mask_id, dtype=torch.int64, device="cpu"), canvas)

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        options: SamplingOptions | None = None,
        callback: Callback | None = None,
        **more: Any,
    ) -> Tensor:
        """Text to image [B, H, W, 3]: the same path without a reference.

        more: fields of `SamplingOptions`, such as seed, steps and guidance; whatever is not given
        is the one of `options` or else the checkpoint's own.
        """
        settings = replace(self.settings, sampling=options or self.settings.sampling)
        sampling = settings.override(**{**more, "threshold": 0.0}).sampling
        instruction = self.encode_instruction(prompt, negative)
        tokens = self.blank_tokens(instruction.batch, size)
        return self.decode(self.sample(tokens, instruction, sampling, callback=callback)[0]).image
