"""What a node shows once it has run: pictures, with its notes written below them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context
from PIL import Image, ImageDraw
from torch import Tensor

from ..editmgt_lib.pictures.lettering import font_for, wrapped

WIDTH, PICTURE = 448, 288  # pixels of a card, which a node shows at about 300, and of its picture
LETTERS, MARGIN = 28, 14
PAPER, INK = (38, 40, 46), (226, 228, 234)
NOTHING = "nothing to note"

_noted: set[tuple[str, str]] = set()  # classes and ids of nodes whose card is of notes alone


def shown(
    cls: type[io.ComfyNode], notes: Sequence[str], pictures: Sequence[Tensor] = ()
) -> dict[str, Any] | None:
    """A node's `ui`: each picture [H, W, 3] with the notes below, or the notes alone.

    As a picture, since frontends keep no other form: they show a `text` only on core's own nodes,
    and newer ones remove a progress text when the job ends. The text is there for API clients. A
    card stays until another replaces it, and an empty list does not.
    """
    text = "\n".join(notes)
    if not pictures:
        node = cls.__name__, _node()
        text, stale = text or NOTHING, node in _noted
        (_noted.add if notes else _noted.discard)(node)
        if not notes and not stale:
            return None
    cards = [card(text, picture) for picture in pictures] or [written(text)]
    return {**ui.PreviewImage(cards, cls=cls).as_dict(), "text": (text,) if text else ()}


def _node() -> str:
    context = get_executing_context()
    return context.node_id if context else ""


def card(text: str, picture: Tensor) -> Tensor:
    """A picture [H, W, 3] with text below, if there is any."""
    return torch.cat([_on_paper(picture), written(text)]) if text else picture


def written(text: str) -> Tensor:
    """Lines of text on dark paper, [h, WIDTH, 3] in 0..1."""
    font, lines = font_for(text, LETTERS), []
    for line in text.split("\n"):
        lines += wrapped(line, font, WIDTH - 2 * MARGIN)
    step = LETTERS * 5 // 4
    paper = Image.new("RGB", (WIDTH, len(lines) * step + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + number * step), line, fill=INK, font=font)
    return torch.from_numpy(np.asarray(paper).copy()).float() / 255


def _on_paper(picture: Tensor) -> Tensor:
    """A picture [H, W, 3], small enough to leave room for the text, on paper of a card's width."""
    scale = PICTURE / max(picture.shape[:2])
    height, width = (max(round(side * scale), 1) for side in picture.shape[:2])
    planes = picture.permute(2, 0, 1)[None].float().cpu()
    planes = F.interpolate(planes, size=(height, width), mode="area" if scale < 1 else "nearest")
    paper = (torch.tensor(PAPER) / 255).expand(height, WIDTH, 3).clone()
    left = (WIDTH - width) // 2
    paper[:, left : left + width] = planes[0].permute(1, 2, 0)
    return paper
