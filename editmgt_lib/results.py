"""Results of an edit, decoding to pixels, and the context every stage runs in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import OutOfMemory, is_out_of_memory
from .localization.maps import Localization
from .models.vq import VQModel
from .offload import execution_device, no_autocast, onloaded
from .pictures.fitting import Tokens


@dataclass(frozen=True, eq=False, repr=False)
class Decoded:
    """image: [B, H, W, C] in 0..1; changed: where it may differ from the source, bool [B, H, W]."""

    image: Tensor
    changed: Tensor

    def __repr__(self) -> str:
        share = self.changed.float().mean()
        return f"{type(self).__name__}({tuple(self.image.shape)}, {share:.1%} may differ)"


@dataclass(frozen=True, eq=False, repr=False)
class EditResult(Decoded):
    """An edited picture, the tokens behind it and, where one was used, the last map.

    notes: what the user should know, such as words that are unknown or an edit without effect.
    """

    tokens: Tokens
    localization: Localization | None
    notes: tuple[str, ...] = ()


def unchanged_notes(tokens: Tokens) -> tuple[str, ...]:
    """A note on the pictures of a batch in which no token changed."""
    same = [k for k, item in enumerate(tokens.changed.flatten(1).any(1).tolist()) if not item]
    advice = "try another seed, a lower threshold or other words"
    return (f"nothing changed{_which(same, len(tokens.ids))}: {advice}",) if same else ()


def foreign_notes(pictures: Sequence[int], batch: int) -> tuple[str, ...]:
    """A note on the pictures that are of another kind than the checkpoint was made for."""
    if not pictures:
        return ()
    return (
        f"this checkpoint does not know pictures like this one{_which(pictures, batch)} and will "
        "repaint it; ToyWorld edits pictures of its own world, photographs need published weights",
    )


def _which(pictures: Sequence[int], batch: int) -> str:
    return f" (picture {', '.join(map(str, pictures))})" if batch > 1 else ""


@contextmanager
def memory_advice(doing: str, advice: str) -> Iterator[None]:
    """Translate a device's out-of-memory error into one that says what to lower."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory while {doing}; {advice}") from error


@contextmanager
def stage(doing: str, advice: str, network: nn.Module) -> Iterator[None]:
    """Run a stage: its network onloaded, autocast shut out, memory errors with advice.

    Autocast is the caller's own setting, and its rounding would assign and draw other tokens.
    """
    device = execution_device(network)
    if getattr(network, "execution", None) is None and device.type != "cpu":
        advice = f"load with offload 'stages', or {advice}"
    with memory_advice(doing, advice), no_autocast(device), onloaded(network):
        yield


@torch.no_grad()
def decode_pixels(vq: VQModel, ids: Tensor) -> Tensor:
    """Token ids [B, rows, cols] -> pixels [B, 3, H, W] float32 on the CPU, not clipped.

    Item by item: the same pixels whatever the batch, and no more memory than one picture needs.
    Where even that is too much, in bands (equal but for rounding).

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
        # Outside the handler: inside, the error would keep the failed attempt's tensors.
        return vq.decode_tiled(ids, storage="cpu").cpu()
