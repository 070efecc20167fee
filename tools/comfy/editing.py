"""Workflows about the edit itself: by instruction, by region, edit after edit."""

from typing import Any

from .graph import Graph
from .parts import (
    EDIT,
    HOLD,
    OTHER,
    OWN_PICTURE,
    RESULT,
    SMALL,
    TEXT,
    begin,
    instruct,
    sample,
    save,
    show,
    show_mask,
)


def edit_by_instruction(info: dict[str, Any]) -> Graph:
    """One sentence, one picture."""
    g = Graph("01_edit_by_instruction", info)
    start = begin(g, 0, "color")
    g.add("PreviewAny", "You could also say", tall=70, source=start.picture["STRING"])
    words = instruct(g, start.model, "make the blue heart yellow")
    g.column()
    g.note(
        "Start here",
        f"""
Run it as it is: the toy model edits in seconds on a CPU and needs no download.

1. Say **what to change** in *EditMGT Encode Instruction*: *make the blue heart yellow*, *remove the
   purple fish*, *replace the orange boat with a red car*, *make the background water*, *turn this
   into a sketch*. *You could also say* holds one more, which suits the picture's **scene** and
   **edit**.
2. For the whole picture (*background*, *sketch*) set **threshold** to 0. 0.1 holds what the
   sentence is not about.
3. Click *Run*. For a different result, change **seed**.

Everything outside the edit stays **identical, bit for bit**.
{OWN_PICTURE}""",
        (320, 300),
    )
    g.group("3  Edit", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"], threshold=HOLD)
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    saved = save(g, decoded["IMAGE"], "edit")
    g.app([(start.picture, "scene"), (words, "text"), (edited, "seed")], [saved])
    g.column()
    show(g, start.image, "Before")
    show_mask(g, decoded["MASK"], "What really changed (white)")
    return g


def see_where_it_acts(info: dict[str, Any]) -> Graph:
    """The attention map, by word, and the threshold that turns it into a region."""
    g = Graph("02_see_where_it_acts", info)
    start = begin(g, 3, "replace")
    words = instruct(g, start.model, "replace the red tree with a house")
    g.column()
    g.note(
        "Reading the map",
        """
**Consolidate Attention** asks the model where this instruction will act, in one pass, before
sampling. Red is relevant, blue is not.

- **words**: look only for these words, here *red tree*. Empty: the whole instruction.
- **threshold** (λ) of the sampler: tokens less relevant than this keep their original value. 0
  lets the whole picture change, 0.05 to 0.2 suits most edits, 1 holds everything.
- This node's MASK is an ordinary mask that works with any other node.
""",
        (320, 250),
    )
    g.group("3  Where it acts", "#7a4f9a")
    found = g.add("EditMGT_ConsolidateAttention", tall=SMALL, model=start.model,
                  tokens=start.tokens["TOKENS"], instruction=words["INSTRUCTION"],
                  words="red tree")  # fmt: skip
    g.column()
    show(g, found["IMAGE"], "Heat map over the picture")
    show_mask(g, found["MASK"], "As a mask")
    g.group("4  Edit there", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"],
                    localization=found["LOCALIZATION"], threshold=HOLD)  # fmt: skip
    g.group("5  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "where")
    g.column()
    show_mask(g, edited["MASK"], "Tokens that changed")
    show_mask(g, decoded["MASK"], "Pixels that changed")
    return g


def edit_inside_a_mask(info: dict[str, Any]) -> Graph:
    """Only a painted region may change."""
    g = Graph("03_edit_inside_a_mask", info)
    start = begin(g, 6, "remove")
    words = instruct(g, start.model, start.picture["STRING"])
    g.note(
        "Instruction from a node",
        """
Here the text comes from the picture node: *get rid of the balloon*. Remove the link to type your
own.
""",
        (300, 100),
    )
    g.column()
    g.note(
        "The mask",
        """
**ToyWorld Picture** outputs a mask of what its instruction is about, so this runs right away. To
paint your own:

1. Replace it with **Load Image** and choose a picture.
2. Right-click it, *Open in MaskEditor*, paint, save.
3. Connect its MASK to the sampler's **region**.

Outside the mask (extended to whole tokens) the result is identical to the original, bit for bit;
*What really changed* shows exactly where.
""",
        (300, 270),
    )
    g.group("3  Edit inside", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"],
                    region=start.picture["MASK"])  # fmt: skip
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"], feather=4)
    saved = save(g, decoded["IMAGE"], "inside-mask")
    g.app([(start.picture, "scene"), (start.picture, "edit"), (edited, "seed")], [saved])
    g.column()
    show(g, start.image, "Before")
    show_mask(g, start.picture["MASK"], "The region")
    g.column()
    show_mask(g, decoded["MASK"], "What really changed (white)")
    return g


def two_edits_in_a_row(info: dict[str, Any]) -> Graph:
    """Edit after edit on tokens, decoded once."""
    g = Graph("04_two_edits_in_a_row", info)
    start = begin(g, 0, "color")
    g.group("About", OTHER, below=True)
    g.note(
        "Edit after edit",
        """
The second sampler takes the **tokens** of the first, not a decoded picture. Nothing is encoded
again in between, so no quality is lost, however many edits follow.

*EditMGT Decode* composites the result with the original once: what neither edit touched is still
identical, bit for bit.
""",
        (300, 190),
    )
    first = instruct(g, start.model, "make the background water", "2  First edit", below=False)
    once = sample(g, start.model, start.tokens["TOKENS"], first["INSTRUCTION"])
    g.group("3  Second edit", TEXT)
    second = g.add("EditMGT_EncodeInstruction", model=start.model,
                   text="remove the blue heart")  # fmt: skip
    twice = sample(g, start.model, once["TOKENS"], second["INSTRUCTION"], threshold=HOLD)
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=twice["TOKENS"])
    save(g, decoded["IMAGE"], "two-edits", tall=300)
    g.group("For comparison", OTHER)
    show(g, start.image, "Before")
    between = g.add("EditMGT_Decode", "Decode after the first edit", model=start.model,
                    tokens=once["TOKENS"])  # fmt: skip
    show(g, between["IMAGE"], "After the first edit")
    return g


def before_after(info: dict[str, Any]) -> Graph:
    """Source and edit under one picture's dividing line."""
    g = Graph("15_before_after", info)
    start = begin(g, 9, "background")
    words = instruct(g, start.model, "make the background snow")
    g.note(
        "Drag the line",
        """
Core's **Compare Images** (*Image Compare*) lays the edit over its original: move the pointer over
it. It does so with *Nodes 2.0* switched on (menu of ComfyUI's logo).

It is missing from older versions of ComfyUI, which mark it red: there open the template
**10_own_picture_painted_mask**, whose *EditMGT Compare Pictures* shows both side by side.
""",
        (300, 200),
    )
    g.group("3  Edit", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"])
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    g.group("4  Before and after", RESULT)
    g.add("ImageCompare", tall=400, wide=420, image_a=start.image, image_b=decoded["IMAGE"])
    save(g, decoded["IMAGE"], "before-after")
    return g


EDITING = (edit_by_instruction, see_where_it_acts, edit_inside_a_mask, two_edits_in_a_row,
           before_after)  # fmt: skip
