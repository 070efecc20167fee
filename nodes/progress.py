"""What a node shows while it runs: progress, which also cancels, and live previews."""

import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from torch import Tensor

from ..editmgt_lib.models.vq import VQModel
from ..editmgt_lib.pictures.canvas import Canvas
from ..editmgt_lib.results import decode_pixels
from ..editmgt_lib.sampling.loop import StepEvent
from .memory import check_cancelled
from .previews import code_colours, coloured, partial_picture, to_pil


def previews_wanted() -> bool:
    """ComfyUI's setting, which newer versions change from run to run."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


class Progress:
    """Steps done of a total; a report raises ComfyUI's interrupt if the user cancelled."""

    def __init__(self, total: int) -> None:
        self._bar, self.done = comfy.utils.ProgressBar(total), 0
        self.picture: Tensor | None = None  # the last one shown

    def advance(self) -> None:
        """Report one more step."""
        self.reach(self.done + 1)

    def reach(self, done: int, picture: Tensor | None = None) -> None:
        """Report how many steps are done, and what the picture looks like now, [H, W, 3]."""
        check_cancelled()
        self.done, self.picture = done, picture
        preview = None if picture is None else ("JPEG", to_pil(picture), args.preview_size)
        self._bar.update_absolute(done, preview=preview)


class LivePreview:
    """The partial picture of the current item, with held and pending tokens marked.

    Items that run together are shown by the first. While a picture is being made, each token has
    the colour of its code; only the finished picture is decoded.

    fixed: tokens outside a region, bool [B, rows, cols], or None; they are shown as held.
    """

    def __init__(self, vq: VQModel, canvas: Canvas, fixed: Tensor | None) -> None:
        self.vq, self.canvas, self.fixed = vq, canvas, fixed

    def __call__(self, event: StepEvent) -> Tensor:
        """The picture after a step, [H, W, 3]."""
        ids = event.proposal[:1]
        if event.step + 1 == event.steps:
            pixels = decode_pixels(self.vq, ids)[0]
        else:
            pixels = coloured(code_colours(self.vq), ids[0], self.canvas.factor)
        fixed = None if self.fixed is None else self.fixed[event.item : event.item + 1]
        known = [cells[:1].cpu() for cells in (event.held, fixed) if cells is not None]
        held = torch.stack(known).any(0) if known else None
        canvas = self.canvas.item(event.item)
        return partial_picture(pixels, held, event.pending[:1], canvas)
