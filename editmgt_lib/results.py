"""Results, decoding to pixels, and the context every stage runs in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import OutOfMemory, is_out_of_memory
from .localization.maps import Localization
from .models.vq import VQModel
from .offload import execution_device, onloaded
from .pictures.canvas import Tokens
from .pictures.compositing import composite, support
from .precision import own_precision
from .settings import Settings
from .text.encoders import TextEncoders

UNTRAINED = (
    "this checkpoint makes pictures from text and was not trained to follow one: expect no "
    "faithful edit; load an EditMGT checkpoint to edit"
)  # a note on pictures it is given


@dataclass(frozen=True, eq=False, repr=False)
class Decoded:
    """A picture [B, H, W, C] in 0..1; changed: where it may differ from the source, [B, H, W]."""

    image: Tensor
    changed: Tensor

    def __repr__(self) -> str:
        share = self.changed.float().mean()
        return f"{type(self).__name__}({tuple(self.image.shape)}, {share:.1%} may differ)"


@dataclass(frozen=True, eq=False, repr=False)
class EditResult(Decoded):
    """An edited picture, its tokens and, if one was used, the last relevance map.

    notes: sentences for the user, about unknown words or an edit without effect, for example.
    """

    tokens: Tokens
    localization: Localization | None
    notes: tuple[str, ...] = ()


def unchanged_notes(tokens: Tokens) -> tuple[str, ...]:
    """A note on the pictures of a batch in which no token changed."""
    same = [k for k, item in enumerate(tokens.changed.flatten(1).any(1).tolist()) if not item]
    advice = "try another seed, a lower threshold or other words"
    return (f"nothing changed{which_pictures(same, len(tokens.ids))}: {advice}",) if same else ()


def picture_notes(vq: VQModel, pixels: Tensor, ids: Tensor, settings: Settings) -> tuple[str, ...]:
    """Notes on pictures [B, 3, H, W] that the checkpoint was not trained to edit."""
    notes = _foreign_notes(vq, pixels, ids, settings.max_reconstruction_error)
    return notes if settings.edits else (UNTRAINED, *notes)


def _foreign_notes(
    vq: VQModel, pixels: Tensor, ids: Tensor, max_error: float | None
) -> tuple[str, ...]:
    """A note on the pictures that the tokenizer does not reproduce: they are of another kind."""
    if max_error is None:
        return ()
    errors = (decode_pixels(vq, ids).clamp(0, 1) - pixels.cpu()).abs().mean((1, 2, 3))
    which = [k for k, error in enumerate(errors.tolist()) if error > max_error]
    if not which:
        return ()
    named = which_pictures(which, len(ids))
    return (
        f"this checkpoint does not know pictures like this one{named} and will repaint it; "
        "ToyWorld edits pictures of its own world, photographs need published weights",
    )


def which_pictures(pictures: Sequence[int], batch: int) -> str:
    """Name the pictures of a batch that a note is about."""
    return f" (picture {', '.join(map(str, pictures))})" if batch > 1 else ""


@contextmanager
def memory_advice(doing: str, advice: str) -> Iterator[None]:
    """Translate out-of-memory errors into `OutOfMemory` with advice."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory while {doing}; {advice}") from error


@contextmanager
def stage(doing: str, advice: str, network: nn.Module) -> Iterator[None]:
    """Run a stage with its network onloaded, in its own precision, with advice in memory errors.

    The caller's autocast would round otherwise, and so assign and draw other tokens.
    """
    device = execution_device(network)
    if getattr(network, "execution", None) is None and device.type != "cpu":
        advice = f"load with offload 'stages', or {advice}"
    with memory_advice(doing, advice), own_precision(network), onloaded(network):
        yield


@contextmanager
def text_stage(encoders: TextEncoders) -> Iterator[None]:
    """Encode text with advice in memory errors; the encoders bring their weights themselves."""
    advice = "use a smaller dtype or another device"
    if encoders.device.type != "cpu":
        advice = f"load with offload 'layers', or {advice}"
    with memory_advice("encoding text", advice):
        yield


@torch.no_grad()
def decode_pixels(vq: VQModel, ids: Tensor) -> Tensor:
    """Token ids [B, rows, cols] -> pixels [B, 3, H, W] float32 on the CPU, not clipped.

    Item by item: pixels do not depend on the batch, and memory stays that of one picture. If that
    does not fit, in bands, which differs by rounding.

    Raises:
        OutOfMemory.
    """
    ids = ids.to(execution_device(vq))
    with stage("decoding", "use a smaller picture", vq):
        try:
            return torch.cat([vq.decode(item[None]).cpu() for item in ids])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, where the error would keep the failed attempt's tensors alive.
        return vq.decode_tiled(ids, storage="cpu").cpu()


def decoded(vq: VQModel, tokens: Tokens, feather: float, grow: int) -> Decoded:
    """Decode and composite tokens; arguments as `EditMGT.decode`."""
    pixels = decode_pixels(vq, tokens.ids)
    if tokens.source_ids is None:
        image = composite(pixels, tokens.canvas)
        return Decoded(image, torch.ones(image.shape[:3], dtype=torch.bool, device="cpu"))
    area = support(tokens.changed.cpu(), tokens.canvas, grow)
    return Decoded(composite(pixels, tokens.canvas, area, feather), area)
