"""What a node shows while it runs: progress, which also cancels, live previews, and notes."""

import logging
import time
from collections.abc import Sequence

import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ..editmgt_lib.models.vq import VQModel
from ..editmgt_lib.pictures.canvas import Canvas
from ..editmgt_lib.results import decode_pixels
from ..editmgt_lib.sampling.loop import StepEvent
from .memory import check_cancelled
from .previews import partial_picture, to_pil

NOTHING = "nothing to note"
DECODING_SHARE = 0.25  # of a run's time that its preview may take


def previews_wanted() -> bool:
    """ComfyUI's setting, which newer versions change from run to run."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


class Progress:
    """Steps done of a total; a report raises ComfyUI's interrupt if the user cancelled."""

    def __init__(self, total: int) -> None:
        self._bar, self.done = comfy.utils.ProgressBar(total), 0

    def advance(self) -> None:
        """Report one more step."""
        self.reach(self.done + 1)

    def reach(self, done: int, picture: Image.Image | None = None) -> None:
        """Report how many steps are done, and what the picture looks like now."""
        check_cancelled()
        self.done = done
        preview = None if picture is None else ("JPEG", picture, args.preview_size)
        self._bar.update_absolute(done, preview=preview)


class LivePreview:
    """The partial picture of the current item, with held and pending tokens marked.

    Items that run together are shown by the first.

    fixed: tokens outside a region, bool [B, rows, cols], or None; they are shown as held.
    Marks are redrawn at every step; the picture under them is decoded as often as a fixed share of
    the run's time allows.
    """

    def __init__(self, vq: VQModel, canvas: Canvas, fixed: Tensor | None) -> None:
        self.vq, self.canvas, self.fixed = vq, canvas, fixed
        self._item, self._pixels, self._due = None, None, 0.0

    def __call__(self, event: StepEvent) -> Image.Image:
        """The picture after a step."""
        if self._item != event.item or time.monotonic() >= self._due:
            self._item, began = event.item, time.monotonic()
            self._pixels = decode_pixels(self.vq, event.proposal[:1])[0]
            ended = time.monotonic()
            self._due = ended + (ended - began) * (1 / DECODING_SHARE - 1)
        fixed = None if self.fixed is None else self.fixed[event.item : event.item + 1]
        known = [cells[:1].cpu() for cells in (event.held, fixed) if cells is not None]
        held = torch.stack(known).any(0) if known else None
        canvas = self.canvas.item(event.item)
        return to_pil(partial_picture(self._pixels, held, event.pending[:1], canvas))


_shown: dict[str, str] = {}  # node -> the notes it shows


def show_notes(notes: Sequence[str]) -> None:
    """Write what the user should know on the running node; into the log where there is none.

    The canvas keeps a text until another replaces it, and an empty one does not.
    """
    context = get_executing_context()
    if context is None:
        for note in notes:
            logging.warning("EditMGT: %s", note)
        return
    from server import PromptServer  # starts half of ComfyUI where no server runs

    node, run = context.node_id, context.list_index or 0  # of a list of values
    before = _shown.pop(node, "")
    said = [f"run {run + 1}: {note}" for note in notes] if run else notes
    text = "\n".join([before, *said] if run and before else said)
    if text:
        _shown[node] = text
    if notes or (before and not text):
        PromptServer.instance.send_progress_text(text or NOTHING, node)
