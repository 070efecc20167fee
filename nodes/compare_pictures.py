"""Node "Compare Pictures": a grid of pictures with captions."""

from comfy_api.latest import io
from torch import Tensor

from .compat import CATEGORY, known
from .grids import captioned_grid, label_lines

SOCKETS = 4


class ComparePictures(io.ComfyNode):
    """A grid of labelled pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_ComparePictures",
            display_name="EditMGT Compare Pictures",
            category=CATEGORY,
            description="Arranges pictures in a grid, each with a caption. Nothing is stretched; "
            "pictures of equal size keep every pixel.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="Pictures to compare: one, a batch, or everything a node makes from a "
                    "list of values. RGB or RGBA, any size.",
                ),
                *_more_images(),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Captions, one line per picture, in order. An empty line leaves that "
                    "picture without one; leave the whole field empty for no captions.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="Pictures per row, 1 to 64. 0: automatic, a single row for up to "
                    "three, otherwise roughly square.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The grid, on a white background.")
            ],
            is_input_list=True,
            **known(
                io.Schema,
                search_aliases=["editmgt", "grid", "contact sheet", "xy plot", "image label"],
            ),
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        labels: list[str] | None = None,
        columns: list[int] | None = None,
        **more: list[Tensor] | None,
    ) -> io.NodeOutput:
        """Lay them out; every input comes as a list."""
        batches = [*images, *(batch for name in _names() for batch in more.get(name) or [])]
        pictures = [picture for batch in batches for picture in batch]
        lines = label_lines("\n".join(labels or [""]), len(pictures))
        return io.NodeOutput(captioned_grid(pictures, lines, (columns or [0])[0]))


def _names() -> list[str]:
    return [f"images_{number}" for number in range(2, SOCKETS + 1)]


def _more_images() -> list:
    """Further inputs for pictures."""
    return [
        io.Image.Input(name, optional=True, tooltip="More pictures, placed after those above.")
        for name in _names()
    ]
