"""EditMGT: five stages in one direction, and `edit`, which runs them in a row.

picture --encode_image--> Tokens --------+--localize--> Localization --+
                                         |                            |
text ----encode_instruction--> Instruction --------------sample--> Tokens --decode--> picture
"""

from collections.abc import Sequence
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
from .pictures.fitting import FitOptions, fit
from .results import (
    Decoded,
    EditResult,
    decoded,
    picture_notes,
    stage,
    text_stage,
    unchanged_notes,
)
from .sampling.loop import Callback
from .sampling.noise import ItemNoise, SharedNoise
from .sampling.options import SamplingOptions
from .sampling.run import on_tokens, read_maps, sample_batch
from .settings import Settings
from .text.encoders import TextEncoders
from .text.instruction import Instruction


class EditMGT:
    """A loaded checkpoint, with one method per stage. Calls leave no state behind.

    Attributes:
        transformer, vq, text_encoders: the networks; text_encoders is None once freed.
        settings: the checkpoint's own defaults.
        folder: where it was loaded from; None for networks built in code.
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
        """Execution device of the transformer."""
        return execution_device(self.transformer)

    @property
    def dtype(self) -> torch.dtype:
        """Precision the transformer computes in."""
        return execution(self.transformer)[1]

    def to(self, device: torch.device | str) -> "EditMGT":
        """Move execution to another device, in place; offloaded weights stay where they are."""
        for network in (self.transformer, self.vq):
            move_execution(network, device)
        if self.text_encoders is not None:
            self.text_encoders.to(device)
        return self

    def free_text(self) -> None:
        """Drop the text encoders: most of the weights, and not needed once prompts are encoded."""
        self.text_encoders = None

    def encode_image(
        self, image: Tensor, fit_options: FitOptions | str = "pad", mask: Tensor | None = None
    ) -> Tokens:
        """Stage 1: picture [B, H, W, C] in 0..1, any size -> tokens and the way back.

        Args:
            fit_options: `"pad"`, `"native"`, `"crop"` (around `mask`), or options in full.
            mask: [B or 1, H, W]; read only by `"crop"`.

        Raises:
            InputError: a picture, mask or fit that cannot be used; OutOfMemory.
        """
        if isinstance(fit_options, str):
            fit_options = FitOptions(fit_options, self.settings.resolution, self.vq.config.factor)
        pixels, canvas = fit(image, fit_options, mask)
        device = execution_device(self.vq)
        with stage("tokenizing", "use a smaller picture or batch", self.vq):
            # Item by item: ids do not depend on the batch, and memory stays that of one picture.
            ids = torch.cat([self.vq.encode(p[None].to(device)) for p in pixels])
        return Tokens(ids, canvas, ids, picture_notes(self.vq, pixels, ids, self.settings))

    def encode_instruction(
        self,
        prompt: str | Sequence[str],
        negative: str | Sequence[str] | None = None,
        guided: bool = True,
    ) -> Instruction:
        """Stage 2: prompts -> text states, and the rows each word occupies.

        Args:
            negative: negative prompts; the checkpoint's own by default.
            guided: False saves encoding the negative prompts, which guidance 1 does not use.

        Raises:
            InputError: the text encoders were freed.
        """
        if self.text_encoders is None:
            raise InputError("the text encoders were freed; load the checkpoint again")
        with text_stage(self.text_encoders):
            return self.text_encoders.encode(prompt, negative, self.settings.negative, guided)

    def localize(
        self,
        tokens: Tokens,
        instruction: Instruction,
        options: LocalizationOptions | None = None,
        sampling: SamplingOptions | None = None,
        *,
        callback: Callback | None = None,
    ) -> Localization:
        """Stage 3: map where the instruction will act. One forward pass per picture, no sampling.

        Args:
            options: what to read, and how; the checkpoint's own by default.
            sampling: strength and step count of the run the map is meant for.
            callback: called after each picture; see `sample`.

        Raises:
            InputError: words that are not in the prompt, blocks that do not exist; OutOfMemory;
            Cancelled.
        """
        options = options or self.settings.localization
        sampling = sampling or self.settings.sampling
        with stage("localising", "use a smaller picture", self.transformer):
            return read_maps(self.transformer, tokens, instruction, options, sampling, callback)

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
        """Stage 4: predict anew the tokens the instruction is about; hold the others.

        Padding around a picture is always held.

        Args:
            tokens: the picture; from `encode_image`, from an earlier `sample` (edits chain), or
                `blank_tokens` to generate.
            options: the checkpoint's own by default.
            localization: what a threshold above 0 is compared with: options to read a map by, or
                a map with its options. With `update="step"` the map is read anew at every step,
                with `"once"` it stays. The checkpoint's own options by default.
            region: [B or 1, H, W] at picture size, above 0.5 where the picture may change.
            combine: whether a token must be in the region AND relevant, or either (`"union"`);
                with a threshold of 0 the region alone counts.
            callback: called after every step of every picture; returning False or raising
                `Cancelled` stops.
            noise: random numbers for the whole batch, which then runs as if `batched`; by default
                each item has a CPU generator of its own, seeded from `options.seed`.
            batched: send the batch through the network together. Faster on a GPU, but rounding,
                and so now and then a token, depends on the rest of the batch; without it, a
                picture and a seed give the same tokens in any batch.

        Returns:
            New tokens (the given ones are untouched) and the last map, or None.

        Raises:
            InputError: arguments that do not fit each other; Cancelled; OutOfMemory.
        """
        options = options or self.settings.sampling
        require_choice("combine", combine, COMBINATIONS)
        if localization is None and options.threshold > 0:
            localization = self.settings.localization
        localization, masks = on_tokens(tokens, options, localization, region)
        advice = "use a smaller picture, bfloat16 or guidance 1, or do without `batched`"
        with stage("sampling", advice, self.transformer):
            result = sample_batch(
                self.transformer, tokens, instruction, options, localization, masks, combine,
                noise, batched, callback,
            )  # fmt: skip
        return tokens.with_ids(result.ids), result.localization

    def decode(self, tokens: Tokens, *, feather: float = 0.0, grow: int = 1) -> Decoded:
        """Stage 5: tokens -> picture at the original size, identical outside the support.

        The support is the changed tokens grown by `grow`; outside it the source's pixels are kept
        bit for bit. The decoder's convolutions reach `vq.config.decoder_reach` tokens, so a larger
        `grow` keeps more of what it decodes and less of the source.

        Args:
            feather: width in pixels of the fade-in inside the support.
            grow: tokens added around each changed one.

        Raises:
            InputError: a negative feather or grow; OutOfMemory.
        """
        return decoded(self.vq, tokens, feather, grow)

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
        """Run all five stages; their arguments are described there.

        Args:
            seed, steps, guidance, strength, threshold, words, more: fields of `SamplingOptions`
                and `LocalizationOptions`; those not given keep the checkpoint's own values.
            options, localization: complete options in place of the checkpoint's own; the latter
                may also be a map to hold by.

        Raises:
            InputError: as the stages do; also an unknown option, an empty prompt.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise InputError(f"prompt is {prompt!r}; say what to change, as in 'make the sky red'")
        options, localization = self.settings.of_call(
            options, localization, seed=seed, steps=steps, guidance=guidance, strength=strength,
            threshold=threshold, words=words and tuple(words), **more,
        )  # fmt: skip
        tokens = self.encode_image(image, fit_options, region)
        instruction = self.encode_instruction(prompt, negative, options.guided)
        edited, localization = self.sample(
            tokens, instruction, options, localization=localization, region=region,
            combine=combine, callback=callback, batched=batched,
        )  # fmt: skip
        made = self.decode(edited, feather=feather)
        notes = (*tokens.notes, *instruction.notes, *unchanged_notes(edited))
        return EditResult(made.image, made.changed, edited, localization, notes)

    def blank_tokens(self, batch: int = 1, size: tuple[int, int] | None = None) -> Tokens:
        """All-masked tokens for `generate`; size: height and width in pixels."""
        height, width = size or (self.settings.resolution,) * 2
        canvas = Canvas.blank(batch, height, width, self.vq.config.factor)
        return Tokens.blank(canvas, self.transformer.config.mask_token_id)

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

        more: fields of `SamplingOptions`, such as seed, steps and guidance; those not given come
        from `options`, or else from the checkpoint.
        """
        settings = self.settings.based_on(options)
        sampling = settings.override(**{**more, "threshold": 0.0}).sampling
        instruction = self.encode_instruction(prompt, negative, sampling.guided)
        tokens = self.blank_tokens(instruction.batch, size)
        return self.decode(self.sample(tokens, instruction, sampling, callback=callback)[0]).image
