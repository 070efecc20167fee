"""EditMGT: five stages in one direction, and `edit`, which is nothing but the five in a row.

picture --encode_image--> Tokens --------+--localize--> Localization --+
                                         |                            |
text ----encode_instruction--> Instruction --------------sample--> Tokens --decode--> picture
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .checks import require_choice
from .choices import COMBINATIONS
from .errors import InputError
from .localization.maps import Localization, LocalizationOptions
from .models.transformer import MaskedTransformer
from .models.vq import VQModel
from .offload import move, workplace
from .pictures.canvas import Canvas, Tokens
from .pictures.compositing import composite, project_mask, support
from .pictures.fitting import FitOptions, fit
from .results import Decoded, EditResult, decode_pixels, memory_advice, stage
from .sampling.loop import Callback, SampleResult, StepEvent, report, sample_tokens
from .sampling.noise import ItemNoise, SharedNoise
from .sampling.options import SamplingOptions
from .sampling.predictor import Predictor, fitting
from .sampling.reuse import ReusingPredictor
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
        return workplace(self.transformer)[0]

    @property
    def dtype(self) -> torch.dtype:
        """Number format the transformer computes in."""
        return workplace(self.transformer)[1]

    def to(self, device: torch.device | str) -> "EditMGT":
        """Have all networks compute on another device, in place; weights that rest stay put."""
        for network in (self.transformer, self.vq):
            move(network, device)
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
        device = workplace(self.vq)[0]
        with stage("tokenizing", "use a smaller picture or batch", self.vq):
            # Item by item: the same ids whatever the batch, and no more memory than one needs.
            ids = torch.cat([self.vq.encode(p[None].to(device)) for p in pixels])
        return Tokens(ids, canvas, ids)

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
            return self.text_encoders.encode(
                prompt, self.settings.negative if negative is None else negative
            )

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
        sampling = replace(sampling or self.settings.sampling, guidance=1.0)
        step = sampling.steps - 1 if options.state == "source" else 0
        items, maps = self._items(tokens, instruction), []
        with stage("localising", "use a smaller picture", self.transformer):
            for k, (item, prompt) in enumerate(items):
                ids = item.ids.to(self.device)
                if options.state == "masked":
                    ids = torch.full_like(ids, self.transformer.config.mask_token_id)
                predictor = Predictor(self.transformer, item, prompt, sampling, options)
                maps.append(predictor.read(ids, step).relevance)
                report(StepEvent(0, 1, ids, ids, None, ids < 0, k, len(items)), callback)
        return Localization(torch.cat(maps), options)

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
        whole = [(tokens, instruction)] if batched or noise else self._items(tokens, instruction)
        masks = None if region is None else project_mask(region, tokens.canvas, required=True)
        seeds, results = options.seeds(batch), []
        less = "use a smaller picture, bfloat16, or guidance 1, or do without `batched`"
        with stage("sampling", less, self.transformer):
            for k, (part, prompt) in enumerate(whole):
                here = slice(k, k + part.canvas.batch)
                one = localization.item(k) if _is_one_of(localization, len(whole)) else localization
                results.append(
                    self._sample(
                        part, prompt, options, one,
                        None if masks is None else masks[here], combine,
                        _counted(callback, k, len(whole)),
                        noise or ItemNoise(seeds[here], options.draw),
                    )
                )  # fmt: skip
        maps = [r.localization for r in results if r.localization is not None]
        found = replace(maps[0], relevance=torch.cat([m.relevance for m in maps])) if maps else None
        return tokens.with_ids(torch.cat([r.ids for r in results])), found

    def _items(
        self, tokens: Tokens, instruction: Instruction
    ) -> list[tuple[Tokens, Instruction]]:
        """Pictures with their prompts, one by one."""
        batch = tokens.canvas.batch
        expanded = instruction.expand(batch)
        return [(tokens.item(k), expanded.item(k)) for k in range(batch)]

    def _sample(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions,
        localization: Localization | LocalizationOptions | None,
        region: Tensor | None,
        combine: str,
        callback: Callback | None,
        noise: ItemNoise | SharedNoise,
    ) -> SampleResult:
        """The pictures that go through the network together; region: tokens [B, rows, cols]."""
        mask_id, source, never_held = self.transformer.config.mask_token_id, None, None
        ids = tokens.ids.to(self.device)
        if tokens.source_ids is not None:
            source, covered = ids, tokens.canvas.covered.to(self.device)
            region = None if region is None else region.to(self.device)
            if region is not None and combine == "union" and options.threshold > 0:
                never_held, region = region, None
            region = covered if region is None else region & covered
        guide_by = self._hold_by(tokens, instruction, options, localization)
        kind = Predictor if options.reuse == "none" else ReusingPredictor
        return sample_tokens(
            kind(self.transformer, tokens, instruction, options, guide_by),
            torch.full_like(ids, mask_id),
            options=options,
            noise=noise,
            mask_id=mask_id,
            source=source,
            region=region,
            never_held=never_held,
            callback=callback,
        )

    def _hold_by(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions,
        given: Localization | LocalizationOptions | None,
    ) -> Localization | LocalizationOptions | None:
        """A map that stays, options to read one at every step, or None where nothing needs one."""
        if options.threshold == 0 and given is None:
            return None
        reading = given.options if isinstance(given, Localization) else given
        reading = reading or self.settings.localization
        if options.threshold > 0 and reading.update == "step":
            return reading
        if isinstance(given, Localization):
            return given
        return self.localize(tokens, instruction, reading, options)

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
            return Decoded(image, torch.ones(image.shape[:3], dtype=torch.bool))
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
        region: Tensor | None = None,
        combine: str = "intersection",
        feather: float = 0.0,
        localization: Localization | None = None,
        callback: Callback | None = None,
        batched: bool = False,
        **more: Any,
    ) -> EditResult:
        """Run all stages in a row; arguments as there.

        Args:
            seed, steps, guidance, strength, threshold, words, more: fields of `SamplingOptions`
                and `LocalizationOptions`; whatever is not given is the checkpoint's own.
            localization: a map to hold by, instead of one read for this edit.

        Raises:
            InputError: as the stages, an unknown option, and an empty prompt.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise InputError(f"prompt is {prompt!r}; say what to change, as in 'make the sky red'")
        settings = self.settings.override(
            seed=seed, steps=steps, guidance=guidance, strength=strength, threshold=threshold,
            words=None if words is None else tuple(words), **more,
        )  # fmt: skip
        asked = words is not None or {f.name for f in fields(LocalizationOptions)} & set(more)
        tokens = self.encode_image(image, fit_options, region)
        instruction = self.encode_instruction(prompt, negative)
        edited, localization = self.sample(
            tokens, instruction, settings.sampling,
            localization=localization or (settings.localization if asked else None),
            region=region, combine=combine, callback=callback, batched=batched,
        )  # fmt: skip
        decoded = self.decode(edited, feather=feather)
        notes = (*tokens.notes, *instruction.notes, *changes(edited))
        return EditResult(decoded.image, decoded.changed, edited, localization, notes)

    def blank_tokens(self, batch: int = 1, size: tuple[int, int] | None = None) -> Tokens:
        """All-masked tokens of a picture yet to be made; `size` is height and width in pixels."""
        height, width = size or (self.settings.resolution,) * 2
        canvas = Canvas.blank(batch, height, width, self.vq.config.factor)
        shape = (batch, canvas.rows, canvas.cols)
        return Tokens(torch.full(shape, self.transformer.config.mask_token_id), canvas)

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Tensor:
        """Text to image [B, H, W, 3]: the same path without a reference.

        options: fields of `SamplingOptions`, such as seed, steps and guidance; whatever is not
        given is the checkpoint's own.
        """
        sampling = self.settings.override(**{**options, "threshold": 0.0}).sampling
        instruction = self.encode_instruction(prompt, negative)
        tokens = self.blank_tokens(instruction.batch, size)
        return self.decode(self.sample(tokens, instruction, sampling, callback=callback)[0]).image
