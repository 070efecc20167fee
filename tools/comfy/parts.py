"""Pieces that most of the workflows share: where a picture comes from, one edit, the results."""

from dataclasses import dataclass

from editmgt_lib.checkpoints.names import TOY_FOLDER
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.settings import Settings

from .graph import Graph, Link, Node

SOURCE, TEXT, EDIT, RESULT, OTHER = "#3f789e", "#a1309b", "#8a6d3b", "#3f7d4e", "#555a66"
"""Colours of groups by what they hold."""

PREVIEW, SMALL, LORA_REPORT = 230, 190, 90
"""Extra height of a node that shows a picture, large or as small as ToyWorld's."""


def numbers(options: SamplingOptions) -> dict[str, float]:
    """A sampler's widgets, by a checkpoint's own options."""
    return {name: getattr(options, name) for name in ("steps", "guidance", "strength")}


HOLD = 0.1
"""The threshold for edits of one thing; those of the whole picture need 0."""

PUBLISHED, TOY = numbers(SamplingOptions()), numbers(Settings.read(TOY_FOLDER).sampling)

OWN_PICTURE = """
**Your own picture:** replace *ToyWorld Picture* with **Load Image**. The toy model only knows its
own little world, so choose the published checkpoint in *Load EditMGT* first (its help page says how
to get it).
"""


@dataclass(frozen=True)
class Start:
    """A loaded model and a tokenized picture."""

    model: Link
    picture: Node
    image: Link
    tokens: Node


def begin(graph: Graph, scene: int, edit: str, *, batch: int = 1, size: int = 256) -> Start:
    """The first group: model, picture, tokens."""
    graph.group("1  Model and picture", SOURCE)
    load = graph.add("EditMGT_Load")
    picture = toy_picture(graph, scene, edit, batch=batch, size=size)
    graph.column()
    tokens = graph.add("EditMGT_EncodeTokens", tall=PREVIEW, model=load["MODEL"],
                       image=picture["IMAGE"])  # fmt: skip
    return Start(load["MODEL"], picture, picture["IMAGE"], tokens)


def toy_picture(graph: Graph, scene: int, edit: str, *, batch: int = 1, size: int = 256) -> Node:
    """A picture that needs no file and suits the toy model."""
    return graph.add("EditMGT_ToyPicture", scene=scene, edit=edit, batch=batch, size=size)


def instruct(
    graph: Graph, model: Link, text: str | Link, title: str = "2  What to change", *,
    below: bool = True,
) -> Node:  # fmt: skip
    """A group with the instruction."""
    graph.group(title, TEXT, below=below)
    return graph.add("EditMGT_EncodeInstruction", model=model, text=text)


def sample(graph: Graph, model: Link, tokens: Link, instruction: Link, **inputs) -> Node:
    """A sampler that shows its live preview; its numbers are the toy model's own by default."""
    return graph.add("EditMGT_RegionHoldSampler", tall=PREVIEW, model=model, tokens=tokens,
                     instruction=instruction, **{**TOY, **inputs})  # fmt: skip


def save(graph: Graph, images: Link, prefix: str, title: str = "Result", tall: int = 220) -> Node:
    """A picture in ComfyUI's output folder."""
    return graph.add("SaveImage", title, tall=tall, images=images,
                     filename_prefix=f"EditMGT/{prefix}")  # fmt: skip


def show(graph: Graph, images: Link, title: str, tall: int = SMALL) -> Node:
    """A picture on the canvas only."""
    return graph.add("PreviewImage", title, tall=tall, wide=260, images=images)


def show_mask(graph: Graph, mask: Link, title: str, tall: int = SMALL) -> Node:
    """A mask on the canvas."""
    return graph.add("MaskPreview", title, tall=tall, wide=260, mask=mask)


def point_to(first: str, graph: Graph) -> None:
    """Say in the longest note which workflow to open first: ComfyUI lists them in any order."""
    note = max(graph.notes, key=lambda note: len(note.text))
    note.text += f"\n\nNew to EditMGT? Open the template **{first}** first."
    note.size = (note.size[0], note.size[1] + 40)
