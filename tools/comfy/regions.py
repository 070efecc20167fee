"""Workflows about where to edit: a painted mask, words, several regions, beyond the edge."""

from typing import Any

from .graph import Graph, Link
from .parts import (
    EDIT,
    OTHER,
    PREVIEW,
    PUBLISHED,
    RESULT,
    SMALL,
    SOURCE,
    TEXT,
    TOY,
    begin,
    instruct,
    sample,
    save,
    show,
    show_mask,
    toy_picture,
)

SIDE, HALF, EDGE = 256, 128, 16  # of ToyWorld's pictures; of what is stretched beyond them


def own_picture(info: dict[str, Any]) -> Graph:
    """A photograph with a mask painted on it, in as few nodes as it takes."""
    g = Graph("10_own_picture_painted_mask", info)
    g.group("1  Your picture", SOURCE)
    load = g.add("EditMGT_Load")
    picture = g.add("LoadImage", "Your picture", tall=300, image="example.png")
    words = instruct(g, load["MODEL"], "make the sky a red sunset")
    g.column()
    g.note(
        "Your own photograph",
        """
1. **Load EditMGT**: choose the published checkpoint. *toyworld*, the default, has never seen a
   photograph and spoils it.
2. **Your picture**: choose a file, right-click the node, *Open in MaskEditor*, paint where the
   picture may change, save. Nothing painted: all of it may change.
3. **EditMGT Encode Instruction**: say what to change there. Run.

The painted mask is the sampler's **region**: outside it the picture stays identical, bit for bit.
For a small mask on a large picture set **fit** to *crop*: the painted area gets all the tokens.
""",
        (340, 270),
    )
    g.group("3  Edit inside the mask", EDIT)
    tokens = g.add("EditMGT_EncodeTokens", tall=PREVIEW, model=load["MODEL"],
                   image=picture["IMAGE"], mask=picture["MASK"])  # fmt: skip
    g.column()
    edited = sample(g, load["MODEL"], tokens["TOKENS"], words["INSTRUCTION"],
                    region=picture["MASK"], **PUBLISHED)  # fmt: skip
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=load["MODEL"], tokens=edited["TOKENS"], feather=4)
    saved = save(g, decoded["IMAGE"], "own-picture", tall=300)
    g.app([(picture, "image"), (words, "text"), (edited, "seed")], [saved])
    g.group("5  Before and after", OTHER)
    both = g.add("EditMGT_ComparePictures", images=picture["IMAGE"], images_2=decoded["IMAGE"],
                 labels="before\nafter", columns=2)  # fmt: skip
    show(g, both["IMAGE"], "Side by side", tall=260)
    g.note(
        "With a slider",
        """
Newer versions of ComfyUI have a core node **Compare Images** (*Image Compare*): link *Your picture*
and *EditMGT Decode* to it, as the template *15_before_after* does.
""",
        (300, 120),
    )
    return g


def words_as_region(info: dict[str, Any]) -> Graph:
    """Words find a thing, and its map is the region of any edit."""
    g = Graph("11_words_as_region", info)
    start = begin(g, 8, "remove")
    g.note(
        "Words instead of a painted mask",
        """
1. **Consolidate Attention** asks the model where *green boat* is. **words** must occur in the
   instruction it gets, here *remove the green boat*; nothing is removed.
2. *Map to mask*, core's **Threshold Mask**, turns the map into a mask. Lower **value**: more
   around it.
3. That mask is the **region** of another edit, *turn this into a blueprint*.

The mask works with any other node too: grow or invert it (*all but the boat*), or use it to
inpaint with another model.
""",
        (320, 240),
    )
    g.group("2  Find by words", "#7a4f9a")
    name = g.add("EditMGT_EncodeInstruction", "What to find", model=start.model,
                 text="remove the green boat")  # fmt: skip
    found = g.add("EditMGT_ConsolidateAttention", tall=SMALL, model=start.model,
                  tokens=start.tokens["TOKENS"], instruction=name["INSTRUCTION"],
                  words="green boat")  # fmt: skip
    g.column()
    show(g, found["IMAGE"], "Heat map over the picture")
    mask = g.add("ThresholdMask", "Map to mask", mask=found["MASK"], value=0.3)
    show_mask(g, mask["MASK"], "The region")
    g.group("3  Edit there", EDIT)
    words = g.add("EditMGT_EncodeInstruction", "What to change", model=start.model,
                  text="turn this into a blueprint")  # fmt: skip
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"],
                    region=mask["MASK"])  # fmt: skip
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "words")
    show(g, start.image, "Before")
    return g


def several_regions(info: dict[str, Any]) -> Graph:
    """A mask and an instruction for each of three regions."""
    g = Graph("12_several_regions", info)
    start = begin(g, 7, "color")
    g.note(
        "One instruction per region",
        """
**EditMGT Edit Regions** edits them one after the other: line 1 inside the first mask, line 2 inside
the second, and so on. Each edit starts from the tokens of the one before, so nothing is lost in
between, and where regions overlap (the tree lies in the left half) the later one sees the
earlier result.

Small things first, large areas last. For your own regions link masks from *Load Image*, from a
segmentation node (a batch of masks counts as several regions), or from *Consolidate Attention*.
""",
        (320, 260),
    )
    g.group("2  Regions", TEXT)
    left, right = _halves(g)
    g.column()
    show_mask(g, start.picture["MASK"], "First region: the tree")
    show_mask(g, left, "Second region: the left half")
    show_mask(g, right, "Third region: the right half")
    g.group("3  Edit region by region", EDIT)
    edited = g.add("EditMGT_EditRegions", tall=PREVIEW, model=start.model,
                   tokens=start.tokens["TOKENS"], region=start.picture["MASK"], region_2=left,
                   region_3=right,
                   instructions="make the red tree blue\nmake the background grass\n"
                   "turn this into a blueprint", **TOY)  # fmt: skip
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "regions")
    g.column()
    show(g, start.image, "Before")
    show_mask(g, edited["MASK"], "Tokens that changed (white)")
    return g


def _halves(g: Graph) -> tuple[Link, Link]:
    """Masks of the left and the right half of a picture, by core nodes."""
    frame = g.add("SolidMask", "Nothing", value=0.0, width=SIDE, height=SIDE)
    spot = g.add("SolidMask", "Half as wide", value=1.0, width=HALF, height=SIDE)
    left = g.add("MaskComposite", "Left half", destination=frame["MASK"], source=spot["MASK"],
                 x=0, y=0, operation="add")  # fmt: skip
    right = g.add("InvertMask", "Right half", mask=left["MASK"])
    return left["MASK"], right["MASK"]


def outpaint(info: dict[str, Any]) -> Graph:
    """More picture beyond the right edge."""
    g = Graph("13_outpaint", info)
    g.group("1  Model and picture", SOURCE)
    load = g.add("EditMGT_Load")
    picture = toy_picture(g, 2, "background")
    wide = g.add("ImagePadForOutpaint", image=picture["IMAGE"], right=HALF, feathering=0)
    g.column()
    edge = g.add("ImageCrop", image=picture["IMAGE"], width=EDGE, height=SIDE, x=SIDE - EDGE, y=0)
    drawn = g.add("ImageScale", image=edge["IMAGE"], upscale_method="bilinear", width=HALF,
                  height=SIDE, crop="disabled")  # fmt: skip
    filled = g.add("ImageCompositeMasked", destination=wide["IMAGE"], source=drawn["IMAGE"],
                   x=SIDE, y=0, resize_source=False)["IMAGE"]  # fmt: skip
    g.column()
    show(g, filled, "Padded")
    show_mask(g, wide["MASK"], "The new area")
    g.group("2  What belongs there", TEXT)
    words = g.add("EditMGT_EncodeInstruction", model=load["MODEL"],
                  text="add a red house at the right")  # fmt: skip
    g.note(
        "Beyond the edge",
        """
Core's **Pad Image for Outpainting** adds grey space and a mask of it; the mask is the sampler's
**region**, so the old part stays identical, bit for bit. **fit** is *native*, which keeps the wider
shape. Keep *feathering* at 0.

To the model the new space is part of the original picture, and it would stay close to grey. So the
last 16 pixels before the edge are stretched over it first: **Image Crop**, **Upscale Image** and
**ImageCompositeMasked**.

Tried with the toy model only.
""",
        (320, 260),
    )
    g.group("3  Edit in the new area", EDIT)
    tokens = g.add("EditMGT_EncodeTokens", tall=SMALL, model=load["MODEL"], image=filled,
                   fit="native", mask=wide["MASK"])  # fmt: skip
    g.column()
    edited = sample(g, load["MODEL"], tokens["TOKENS"], words["INSTRUCTION"], region=wide["MASK"])
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=load["MODEL"], tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "outpainted", tall=200)
    show(g, picture["IMAGE"], "Before")
    return g


def text_to_image(info: dict[str, Any]) -> Graph:
    """A picture from nothing but a sentence."""
    g = Graph("14_text_to_image", info)
    g.group("1  Model and size", SOURCE)
    load = g.add("EditMGT_Load")
    blank = g.add("EditMGT_EmptyTokens", model=load["MODEL"], width=SIDE, height=SIDE)
    words = instruct(
        g, load["MODEL"],
        "a yellow balloon at the top, a red house at the left and a green tree at the right on a "
        "grass background", "2  What to draw",
    )  # fmt: skip
    g.column()
    g.note(
        "From text alone",
        """
**EditMGT Empty Tokens** stands where *EditMGT Encode Tokens* stands for an edit. There is no
picture to hold, so **threshold** is 0 and **region** is empty.

The toy model draws 1 to 4 objects on a background at **256x256**: say colour, kind and place of
each. Other checkpoints have a size of their own; 0 takes it.

To edit the result, encode it with *EditMGT Encode Tokens*, as for any picture.
""",
        (320, 210),
    )
    g.group("3  Draw", EDIT)
    drawn = sample(g, load["MODEL"], blank["TOKENS"], words["INSTRUCTION"])
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=load["MODEL"], tokens=drawn["TOKENS"])
    saved = save(g, decoded["IMAGE"], "text-to-image", tall=300)
    g.app([(words, "text"), (drawn, "seed")], [saved])
    return g


REGIONS = (own_picture, words_as_region, several_regions, outpaint, text_to_image)
