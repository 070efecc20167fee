"""Node "ToyWorld Picture": something the shipped toy model can edit, without a file."""

import torch
from comfy_api.latest import io

from ..editmgt_lib.toyworld import language, world
from ..editmgt_lib.toyworld.drawing import check_size
from .compat import CATEGORY, known
from .errors import verdict

SEED = 0  # of the endless held-out set: pictures the toy model was not trained on


class ToyPicture(io.ComfyNode):
    """A picture, an instruction for it, and where that instruction acts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_ToyPicture",
            display_name="ToyWorld Picture",
            category=CATEGORY,
            description="A generated picture from the toy model's world. Replace it with Load "
            "Image once you use a published checkpoint.",
            inputs=[
                io.Int.Input(
                    "scene", default=0, min=0, max=999_999,
                    tooltip="Number of the picture. A batch takes this one and the ones after it.",
                ),
                io.Combo.Input(
                    "edit", options=list(language.CATEGORIES), default="background", optional=True,
                    tooltip="The kind of edit that MASK and STRING describe; without a link from "
                    "either it only affects the picture: some edits need free space or several "
                    "objects.",
                ),
                io.Int.Input(
                    "size", default=256, min=64, max=2048, step=16, optional=True,
                    tooltip="Side length in pixels, a multiple of 16 from 64 to 2048. The toy "
                    "model works at 256; other sizes are scaled there and back.",
                ),
                io.Int.Input(
                    "batch", default=1, min=1, max=64, optional=True,
                    tooltip="Number of pictures, 1 to 64.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The pictures."),
                io.Mask.Output(
                    display_name="MASK", tooltip="Exactly the pixels the edit should change."
                ),
                io.String.Output(
                    display_name="STRING",
                    tooltip="An instruction for the first picture: link it to EditMGT Encode "
                    "Instruction's text, or type your own there.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "toy", "example picture"]),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, size: int | None = None) -> bool | str:
        """The canvas steps by 16, other clients need not."""
        return verdict(check_size, size)

    @classmethod
    def execute(
        cls, scene: int, edit: str = "background", size: int = 256, batch: int = 1
    ) -> io.NodeOutput:
        """Draw."""
        pairs = [world.pair_at(SEED, scene + k, True, edit) for k in range(batch)]
        pixels = torch.stack([torch.from_numpy(world.render(p.source, size)) for p in pairs])
        masks = torch.stack([torch.from_numpy(world.change_mask(p, size)) for p in pairs])
        return io.NodeOutput(pixels.float() / 255, masks.float(), pairs[0].instruction)
