"""The progress bar, which also cancels, and the live preview of a run."""

import time

import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ..editmgt_lib.models.vq import VQModel
from ..editmgt_lib.pictures.fitting import Tokens
from ..editmgt_lib.results import decode_pixels
from ..editmgt_lib.sampling.loop import StepEvent
from .memory import check_cancelled
from .previews import partial_picture, to_pil

DECODING_SHARE = 0.25  # of a run's time that its preview may take


def previews_wanted() -> bool:
    """ComfyUI's setting, which newer versions change from run to run."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


class Progress:
    """Steps done of a total; every report raises ComfyUI's interrupt if the user cancelled."""

    def __init__(self, total: int) -> None:
        self._bar, self.done = comfy.utils.ProgressBar(total), 0

    def advance(self, by: int = 1, picture: Image.Image | None = None) -> None:
        """Report that many more steps, and what the picture looks like now."""
        self.reach(self.done + by, picture)

    def reach(self, done: int, picture: Image.Image | None = None) -> None:
        """Report how many steps are done."""
        check_cancelled()
        self.done = done
        preview = None if picture is None else ("JPEG", picture, args.preview_size)
        self._bar.update_absolute(done, preview=preview)


class LivePreview:
    """The real partial picture of one item, with held and pending tokens marked.

    fixed: tokens outside a region, bool [1, rows, cols], or None; they are shown as held.
    The marks are new at every step. The picture under them is decoded as often as a fixed share of
    the run's time allows: at every step where that is cheap, less often on a slow device.
    """

    def __init__(self, vq: VQModel, tokens: Tokens, fixed: Tensor | None) -> None:
        self.vq, self.canvas, self.fixed = vq, tokens.canvas, fixed
        self._pixels, self._due = None, 0.0

    def __call__(self, event: StepEvent) -> Image.Image:
        """The picture after a step."""
        if self._pixels is None or time.monotonic() >= self._due:
            began = time.monotonic()
            self._pixels = decode_pixels(self.vq, event.proposal[:1])[0]
            ended = time.monotonic()
            self._due = ended + (ended - began) * (1 / DECODING_SHARE - 1)
        known = [cells.cpu() for cells in (event.held, self.fixed) if cells is not None]
        held = torch.stack(known).any(0) if known else None
        return to_pil(partial_picture(self._pixels, held, event.pending, self.canvas))
