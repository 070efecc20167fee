"""Draw the README's first picture: one scene, and edits of it by the shipped checkpoint.

    python tools/hero.py docs/images/scene.png docs/images/hero.png

What is drawn is what the model gives; the share under each edit is counted, not stated.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import editmgt_lib

EDITS = {
    "remove the red balloon": 0.1,
    "make the house purple": 0.1,
    "replace the tree with a yellow car": 0.1,
    "add a blue car in the center": 0.1,
    "move the red balloon to the top left": 0.05,
    "make the background snow": 0.0,
    "turn this into a blueprint": 0.0,
}
"""Instructions, and the threshold of each: 0 for those about the whole picture."""
CELL, GAP, MARGIN, LINE = 200, 26, 24, 50
INK, FAINT = (34, 38, 46), (120, 126, 136)


def main(source: str, target: str) -> None:
    """Edit, check what stayed, draw."""
    model = editmgt_lib.load("toyworld", device="cpu")
    picture = editmgt_lib.read_image(source).pixels
    cells = [(picture[0], "the picture", "")]
    for text, threshold in EDITS.items():
        result = model.edit(picture, text, threshold=threshold)
        kept = ~result.changed[0]
        if not torch.equal(result.image[0][kept], picture[0][kept]):
            raise SystemExit(f"{text!r} changed pixels outside its mask")
        share = f"threshold {threshold:g}, {kept.float().mean():.0%} untouched"
        cells.append((result.image[0], f"“{text}”", share))
    columns = (len(cells) + 1) // 2
    size = (2 * MARGIN + columns * (CELL + GAP) - GAP, 2 * MARGIN + 2 * (CELL + LINE) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        line, column = divmod(number, columns)
        _draw(sheet, pen, cell, MARGIN + column * (CELL + GAP), MARGIN + line * (CELL + LINE + GAP))
    sheet.save(Path(target))


def _draw(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    cell: tuple[torch.Tensor, str, str],
    left: int,
    top: int,
) -> None:
    pixels, text, note = cell
    image = Image.fromarray((pixels[..., :3].clamp(0, 1) * 255).round().byte().numpy())
    sheet.paste(image.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
    pen.rectangle((left - 1, top - 1, left + CELL, top + CELL), outline=(216, 220, 226))
    fonts = [ImageFont.load_default(size) for size in range(17, 8, -1)]
    font = next((f for f in fonts if f.getlength(text) <= CELL + GAP - 6), fonts[-1])
    middle = left + CELL // 2
    pen.text((middle, top + CELL + 8), text, fill=INK, font=font, anchor="ma")
    pen.text(
        (middle, top + CELL + 30), note, fill=FAINT, font=ImageFont.load_default(13), anchor="ma"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
