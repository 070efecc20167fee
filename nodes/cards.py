"""What a node shows once it has run: pictures, with its notes written below them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw
from torch import Tensor

from ..editmgt_lib.pictures.lettering import font_for, wrapped

WIDTH = 512  # pixels of a card; a node shows it at about 300
LETTERS, MARGIN = 28, 14
PAPER, INK = (38, 40, 46), (226, 228, 234)


def shown(cls: type[io.ComfyNode], notes: Sequence[str], pictures: Tensor | None = None) -> dict:
    """A node's `ui`: each picture [B, H, W, 3] with the notes below, or the notes alone.

    As a picture, since frontends keep no other form: they show a `text` only on core's own nodes,
    and newer ones remove a progress text when the job ends. The text is there for API clients. The
    keys are always the same, so that an earlier card goes when there is nothing to show.
    """
    whole = "\n".join(notes)
    cards: Any = pictures
    if whole:
        paper = written(whole)
        bases = [paper[:0]] if pictures is None else [_wide(picture) for picture in pictures]
        cards = [torch.cat([base, paper]) for base in bases]
    if cards is None:
        return {"images": (), "animated": (False,), "text": ()}
    text = (whole,) if whole else ()
    return {**ui.PreviewImage(cards, cls=cls).as_dict(), "text": text}


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


def _wide(picture: Tensor) -> Tensor:
    """A picture [H, W, 3] at a card's width."""
    size = (max(round(picture.shape[0] * WIDTH / picture.shape[1]), 1), WIDTH)
    mode = "area" if picture.shape[1] > WIDTH else "nearest"
    planes = picture.permute(2, 0, 1)[None].float().cpu()
    return F.interpolate(planes, size=size, mode=mode)[0].permute(1, 2, 0)
