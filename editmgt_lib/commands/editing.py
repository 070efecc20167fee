"""What `editmgt edit` and `editmgt generate` do with a loaded model."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import InputError
from ..localization.maps import Localization, LocalizationOptions
from ..pictures.drawing import relevance_on_picture
from ..pictures.fitting import Canvas, Tokens
from ..pictures.images import MAX_SIDE, Picture, read_image, read_mask, write_image
from ..results import unchanged_notes
from ..sampling.options import FAST, SamplingOptions
from .console import on_step, progress_bar, say, shown
from .options import given, load_model, path_of, text_of
from .outputs import Job

if TYPE_CHECKING:
    from ..pipeline import EditMGT
    from ..results import Decoded
    from ..text.instruction import Instruction

SAMPLING = (
    "seed", "steps", "guidance", "strength", "threshold", "hold_rule",
    "guidance_interval", "reuse", "refresh",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Request:
    """What to do to every picture, as far as it is known before the model is loaded.

    sampling: the options given, the others are the checkpoint's; words: () for all.
    """

    instruction: str
    negative: str | None
    sampling: dict[str, Any]
    words: tuple[str, ...]
    mask: Tensor | None
    fit: str
    combine: str | None
    feather: float

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Request":
        """Read the command line; raises InputError for a value that no checkpoint could take."""
        sampling = {**(FAST if args.fast else {}), **given(args, *SAMPLING)}
        SamplingOptions(**sampling)
        words = tuple(word.strip() for word in (args.words or "").split(",") if word.strip())
        if args.words is not None and not words:
            raise InputError(f"words is {args.words!r}; name words of the instruction")
        if not 0 <= args.feather <= MAX_SIDE:
            raise InputError(f"feather is {args.feather}; use a number of pixels, 0..{MAX_SIDE}")
        if args.fit == "crop" and not args.mask:
            raise InputError("fit is crop without a mask; add --mask, or use pad or native")
        if args.combine and not args.mask:
            raise InputError(f"combine is {args.combine} without a mask; add --mask")
        return cls(
            instruction=text_of(args, "instruction"),
            negative=args.negative,
            sampling=sampling,
            words=words,
            mask=None if args.mask is None else read_mask(path_of(args.mask)),
            fit=args.fit,
            combine=args.combine,
            feather=args.feather,
        )


class Stopwatch:
    """Seconds per stage."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 4)


class Session:
    """A loaded model and an encoded instruction, ready for picture after picture."""

    def __init__(self, request: Request, args: argparse.Namespace) -> None:
        self.request, self._args, clock = request, args, Stopwatch()
        with clock.stage("load"):
            model = load_model(args)
        self._model = model
        settings = model.settings.override(**request.sampling, words=request.words or None)
        self._sampling, self._localization = settings.sampling, settings.localization
        self._check_use()
        with clock.stage("instruction"):
            self._instruction = model.encode_instruction(
                request.instruction, request.negative, self._sampling.guided
            )
        if request.words:
            self._instruction.rows_of(request.words)  # one error now, not one per picture
        for note in self._instruction.notes:
            say(note)
        model.free_text()
        if args.compile:
            say("compiling during the first step; this can take minutes, later runs less")
            model.transformer.compile_blocks()
        self._clock = clock

    def _check_use(self) -> None:
        """Options that would have no effect are mistakes."""
        if self._sampling.threshold > 0:
            return
        alone = {"words": self.request.words and not self._args.attention_out}
        for name, useless in (alone | {"combine": self.request.combine}).items():
            if useless:
                raise InputError(f"{name} has no effect with threshold 0; add --threshold 0.05")

    def edit(self, job: Job, label: str) -> dict[str, Any]:
        """Edit one picture, write its files, and give its JSON object."""
        clock, model = Stopwatch(self._clock.seconds), self._model
        with clock.stage("read"):
            picture = read_image(job.source)
        _check_depth(picture, job)
        with clock.stage("image"):
            tokens = model.encode_image(picture.pixels, self.request.fit, self.request.mask)
        edited, found = self._sample(tokens, label, clock, wanted=job.attention is not None)
        with clock.stage("decode"):
            decoded = model.decode(edited, feather=self.request.feather)
        with clock.stage("write"):
            lost = _write(job, picture, decoded, found, tokens.canvas)
        notes = (*picture.notes, *tokens.notes, *unchanged_notes(edited), *lost)
        for note in notes:
            say(f"{shown(job.source)}: {note}")
        notes = (*self._instruction.notes, *notes)
        return self._record(job, picture, decoded, clock) | {"notes": notes}

    def _sample(
        self, tokens: Tokens, label: str, clock: Stopwatch, wanted: bool
    ) -> tuple[Tokens, Localization | None]:
        """New tokens, and the map they were chosen by (or, if `wanted`, one read for it)."""
        model, sampling = self._model, self._sampling
        reading = self._localization if sampling.threshold > 0 else None
        once = reading is not None and reading.update == "once"
        options: Localization | LocalizationOptions | None = reading
        found = None
        if wanted or once:
            with clock.stage("localize"):
                found = model.localize(tokens, self._instruction, self._localization, sampling)
        if once:
            options = found
        with clock.stage("sample"), progress_bar(sampling.steps, label) as bar:
            edited, last = model.sample(
                tokens, self._instruction, sampling,
                localization=options,
                region=self.request.mask,
                combine=self.request.combine or "intersection",
                callback=on_step(bar),
            )  # fmt: skip
        return edited, last or found

    def _record(
        self, job: Job, picture: Picture, decoded: "Decoded", clock: Stopwatch
    ) -> dict[str, Any]:
        request, args = self.request, self._args
        height, width = picture.pixels.shape[1:3]
        more = {"fit": request.fit, "combine": request.combine, "feather": request.feather}
        return {
            "input": str(job.source),
            "output": str(job.out),
            "attention": str(job.attention) if job.attention else None,
            "changed_mask": str(job.changed) if job.changed else None,
            "width": width,
            "height": height,
            "bits": picture.bits,
            "instruction": request.instruction,
            "mask": args.mask,
            "changed": round(float(decoded.changed.float().mean()), 6),
            **describe_run(self._model, args, self._sampling, self._instruction),
            "options": asdict(self._sampling) | more,
            "localization": asdict(self._localization) if self._sampling.threshold > 0 else None,
            "seconds": clock.seconds,
        }


def describe_run(
    model: "EditMGT",
    args: argparse.Namespace,
    sampling: SamplingOptions,
    instruction: "Instruction",
) -> dict[str, Any]:
    """The part of a JSON object that edited and generated pictures share."""
    return {
        "model": args.model,
        "lora": [{"file": str(file), "strength": strength} for file, strength in args.lora],
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seed": sampling.seed,
        "truncated_tokens": instruction.truncated[0],
    }


def _check_depth(picture: Picture, job: Job) -> None:
    """Refuse an output that would lose bits or transparency, before the work is done."""
    suffix = job.out.suffix.lower()
    if picture.bits == 16 and suffix != ".png":
        raise InputError(f"{job.source} has 16 bits, {suffix} holds 8; write a .png")
    if picture.has_alpha and suffix in (".jpg", ".jpeg"):
        raise InputError(f"{job.source} has transparency, {suffix} holds none; write .png or .webp")


def _write(
    job: Job, picture: Picture, decoded: "Decoded", found: Localization | None, canvas: Canvas
) -> tuple[str, ...]:
    """Write the files of a picture, itself last; none stays if one fails. Gives what is lost."""
    written = []
    try:
        if job.attention is not None and found is not None:
            tokens = found.upsample(canvas.rows, canvas.cols)[:1]
            write_image(job.attention, relevance_on_picture(tokens, canvas)[..., None])
            written.append(job.attention)
        if job.changed is not None:
            write_image(job.changed, decoded.changed[:1, ..., None].float())
            written.append(job.changed)
        return write_image(job.out, decoded.image, picture.bits, picture.metadata)
    except BaseException:
        for path in written:  # left alone, they would stop the run that goes on with this picture
            path.unlink(missing_ok=True)
        raise
