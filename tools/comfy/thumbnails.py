"""Pictures for the template browser: what a workflow showed, and its instruction underneath."""

from PIL import Image, ImageDraw, ImageFont

from .graph import Graph

SIZE = (480, 320)
GROUND, INK, FAINT = "#1f2126", "#f2f2f2", "#9aa0aa"
CAPTION = 44

TILES: dict[str, tuple[str, ...]] = {
    "01_edit_by_instruction": ("Before", "Result"),
    "02_see_where_it_acts": ("Heat map over the picture", "Result"),
    "03_edit_inside_a_mask": ("Before", "The region", "Result"),
    "04_two_edits_in_a_row": ("Before", "After the first edit", "Result"),
    "05_edit_then_upscale": ("Before", "Result"),
    "05b_edit_then_upscale_with_model": (),
    "06_crop_edit_stitch": ("The large picture", "Result"),
    "07_generate_then_edit": (),
    "08_batch": ("Result",),
    "09_threshold_sweep": ("Result",),
    "10_own_picture_painted_mask": (),
    "11_words_as_region": ("Heat map over the picture", "The region", "Result"),
    "12_several_regions": ("Before", "Result"),
    "13_outpaint": ("Padded", "Result"),
    "14_text_to_image": ("Result",),
    "15_before_after": ("Compare Images",),
    "16_lora": ("Before", "Result"),
}
"""Titles of the nodes whose pictures are shown, left to right."""

STEPS = {
    "05b_edit_then_upscale_with_model": ("edit", "upscale model", "large picture"),
    "07_generate_then_edit": ("checkpoint", "KSampler", "edit"),
    "10_own_picture_painted_mask": ("your picture", "painted mask", "edit"),
}
"""Where weights would be needed: the way in words."""


CAPTIONS = {
    "10_own_picture_painted_mask": "your own picture, edited inside a painted mask",
    "11_words_as_region": "at the words “green boat”: “turn this into a blueprint”",
    "12_several_regions": "one instruction per region",
    "13_outpaint": "beyond the edge: “add a red house at the right”",
    "14_text_to_image": "from text alone",
    "15_before_after": "before and after: “make the background snow”",
    "16_lora": "a LoRA brings in a colour: “make the blue heart pink”",
}
"""Where the instructions say too little."""


def thumbnail(name: str, graph: Graph, pictures: dict[str, list[Image.Image]]) -> Image.Image:
    """One card of the template browser."""
    card = Image.new("RGB", SIZE, GROUND)
    tiles = [picture for title in TILES[name] for picture in pictures.get(title, [])]
    if tiles:
        _tile(card, tiles)
    else:
        _steps(card, STEPS[name])
    _text(card, (SIZE[0] / 2, SIZE[1] - CAPTION / 2), _caption(graph), 19, INK)
    return card


def _caption(graph: Graph) -> str:
    if graph.name in CAPTIONS:
        return CAPTIONS[graph.name]
    texts = [
        node.values["text"]
        for node in graph.nodes
        if node.type.id == "EditMGT_EncodeInstruction" and "text" in node.values
    ]
    caption = ", then ".join(f"“{text}”" for text in texts) or "only inside the mask"
    return f"Start here: {caption}" if graph.name.startswith("01") else caption


def _tile(card: Image.Image, tiles: list[Image.Image]) -> None:
    """Equal tiles in one or two rows above the caption."""
    gap = 10
    rows = 2 if len(tiles) > 3 else 1
    columns = -(-len(tiles) // rows)
    width = (SIZE[0] - gap * (columns + 1)) // columns
    height = (SIZE[1] - CAPTION - gap * (rows + 1) + gap // 2) // rows
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        scale = min(width / tile.width, height / tile.height)
        fitted = tile.resize((round(tile.width * scale), round(tile.height * scale)),
                             Image.Resampling.LANCZOS)  # fmt: skip
        left = gap + column * (width + gap) + (width - fitted.width) // 2
        top = gap + row * (height + gap) + (height - fitted.height) // 2
        card.paste(fitted, (left, top))


def _steps(card: Image.Image, steps: tuple[str, ...]) -> None:
    """Boxes with words, and lines between them."""
    draw = ImageDraw.Draw(card)
    width, height, gap = 136, 70, 22
    left = (SIZE[0] - len(steps) * width - (len(steps) - 1) * gap) // 2
    top = (SIZE[1] - CAPTION - height) // 2
    for index, step in enumerate(steps):
        x = left + index * (width + gap)
        if index:
            draw.line([x - gap, top + height // 2, x, top + height // 2], fill=FAINT, width=3)
        draw.rounded_rectangle([x, top, x + width, top + height], 10, "#343841", FAINT)
        _text(card, (x + width / 2, top + height / 2), step, 17, INK)


def _text(card: Image.Image, at: tuple[float, float], text: str, size: int, ink: str) -> None:
    """Centred text, smaller where it would not fit."""
    draw = ImageDraw.Draw(card)
    font = ImageFont.load_default(size)
    while size > 9 and draw.textlength(text, font) > SIZE[0] - 20:
        size -= 1
        font = ImageFont.load_default(size)
    draw.text(at, text, ink, font, anchor="mm")
