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
from .errors import InputError
from .localization.maps import Localization, LocalizationOptions
from .models.transformer import MaskedTransformer
from .models.vq import VQModel
from .offload import execution, execution_device, move_execution
from .pictures.fitting import Canvas, FitOptions, Tokens, composite, fit, project_mask, support
from .results import Decoded, EditResult, decode_pixels, memory_advice, stage
from .sampling.loop import ItemNoise, SamplingOptions, SharedNoise, StepEvent, sample_tokens
from .sampling.predictor import Predictor
from .settings import Settings
from .text.encoders import TextEncoders
from .text.instruction import Instruction

Callback = Callable[[StepEvent], bool | None]
COMBINATIONS = ("intersection", "union")


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
    ) -> Localization:
        """Stage 3: where will this instruction act? One forward pass, nothing sampled.

        Args:
            options: blocks, rows, filter, and the state to read in; the checkpoint's by default.
            sampling: strength and step count of the run it stands for.

        Raises:
            InputError: words that are not in the prompt, blocks that do not exist; OutOfMemory.
        """
        options = options or self.settings.localization
        sampling = replace(sampling or self.settings.sampling, guidance=1.0)
        ids = tokens.ids.to(self.device)
        with stage("localising", "use a smaller picture or batch", self.transformer):
            predictor = Predictor.of(self.transformer, tokens, instruction, sampling, options)
            if options.state == "source":
                return predictor.read(ids, 0)
            masked = torch.full_like(ids, self.transformer.config.mask_token_id)
            return predictor.read(masked, sampling.steps - 1)

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
    ) -> tuple[Tokens, Localization | None]:
        """Stage 4: re-predict the tokens the instruction is about; hold the others.

        Args:
            tokens: the picture; from `encode_image`, from an earlier `sample` (edits chain), or
                `blank_tokens` to generate.
            options: every knob; the checkpoint's own by default.
            localization: with a threshold above 0, what to hold by: options, or a map whose
                options count; `update` says whether a map is read at every step or stays as it
                is. The checkpoint's own by default.
            region: [B or 1, H, W] at picture size, above 0.5 where the picture may change.
            combine: whether a token must be in the region AND relevant, or either (`"union"`);
                with a threshold of 0 nothing is read off and the region alone counts.
            callback: called after every step; returning False or raising `Cancelled` stops.
            noise: random numbers; by default one CPU generator per item, from the seed.

        Returns:
            New tokens (the given ones are untouched) and the last map, or None.

        Raises:
            InputError: anything that does not fit; Cancelled; OutOfMemory.
        """
        options = options or self.settings.sampling
        require_choice("combine", combine, COMBINATIONS)
        editing = tokens.source_ids is not None
        if not editing and (options.threshold > 0 or region is not None):
            raise InputError("threshold and region hold parts of a picture; there is none here")
        ids, mask_id = tokens.ids.to(self.device), self.transformer.config.mask_token_id
        place = None
        if region is not None:
            place = project_mask(region, tokens.canvas, required=True).to(self.device)
        union = combine == "union" and options.threshold > 0
        less = "use a smaller batch or picture, bfloat16, or guidance 1"
        with stage("sampling", less, self.transformer):
            guide_by = self._what_to_hold(tokens, instruction, options, localization)
            result = sample_tokens(
                Predictor.of(self.transformer, tokens, instruction, options, guide_by),
                torch.full_like(ids, mask_id),
                options=options,
                noise=noise or ItemNoise(options.seeds(len(ids)), options.draw),
                mask_id=mask_id,
                source=ids if editing else None,
                region=None if union else place,
                never_held=place if union else None,
                callback=callback,
            )
        return tokens.with_ids(result.ids), result.localization

    def _what_to_hold(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions,
        given: Localization | LocalizationOptions | None,
    ) -> Localization | LocalizationOptions | None:
        """A map that stays, options to read one at every step, or None where nothing needs one."""
        if options.threshold == 0 and given is None:
            return None
        given = given or self.settings.localization
        if isinstance(given, Localization):
            return given if given.options.update == "once" else given.options
        if given.update == "once":
            return self.localize(tokens, instruction, given, options)
        return given

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
        negative: str | Sequence[str] | None = None,
        fit_options: FitOptions | str = "pad",
        options: SamplingOptions | None = None,
        localization: Localization | LocalizationOptions | None = None,
        region: Tensor | None = None,
        combine: str = "intersection",
        feather: float = 0.0,
        callback: Callback | None = None,
    ) -> EditResult:
        """All stages in a row; arguments as there.

        Raises:
            InputError: as the stages, and an empty prompt.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise InputError(f"prompt is {prompt!r}; say what to change, as in 'make the sky red'")
        tokens = self.encode_image(image, fit_options, region)
        instruction = self.encode_instruction(prompt, negative)
        edited, found = self.sample(
            tokens, instruction, options, localization=localization,
            region=region, combine=combine, callback=callback,
        )  # fmt: skip
        decoded = self.decode(edited, feather=feather)
        return EditResult(decoded.image, decoded.changed, edited, found)

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
        options: SamplingOptions | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Text to image [B, H, W, 3]: the same path without a reference."""
        options = replace(options or self.settings.sampling, threshold=0.0)
        instruction = self.encode_instruction(prompt, negative)
        tokens = self.blank_tokens(instruction.batch, size)
        return self.decode(self.sample(tokens, instruction, options, callback=callback)[0]).image
