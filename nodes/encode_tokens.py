"""Node "Encode Tokens": picture to image tokens, and the way back to its own pixels."""

from comfy_api.latest import io
from torch import Tensor

from ..editmgt_lib.choices import FITS
from .batches import at_rest, region_masks
from .cards import shown
from .compat import CATEGORY, known
from .memory import on_device
from .networks import Model
from .previews import token_grid
from .sockets import MODEL_TIP, ModelSocket, TokensSocket

UNLINKED = object()  # ComfyUI passes None for an input that is linked


class EncodeTokens(io.ComfyNode):
    """Stage 1."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_EncodeTokens",
            display_name="EditMGT Encode Tokens",
            category=CATEGORY,
            description="Turns pictures into image tokens. Any size and shape; nothing is "
            "stretched, and the original pixels are kept for EditMGT Decode.",
            inputs=_inputs(),
            outputs=[
                TokensSocket.Output(
                    display_name="TOKENS", tooltip="For Consolidate Attention and the sampler."
                ),
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The picture on the canvas with its token grid: padding is dark, cells "
                    "under the mask are orange.",
                ),
            ],
            **known(
                io.Schema,
                search_aliases=["editmgt", "tokenize", "vq"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, fit: str | None = "pad", mask: object = UNLINKED) -> bool | str:
        """A crop needs a mask."""
        if fit is not None and fit not in FITS:
            return f"fit is {fit!r}; use one of {', '.join(FITS)}"
        if fit == "crop" and mask is UNLINKED:
            return "fit is 'crop' without a mask; connect a mask, or use 'pad' or 'native'"
        return True

    @classmethod
    def execute(
        cls, model: Model, image: Tensor, fit: str = "pad", mask: Tensor | None = None
    ) -> io.NodeOutput:
        """Encode, and draw the grid."""
        masks, notes = region_masks(mask, *image.shape[1:3])
        if fit != "crop":
            notes = ()  # only the drawing shows it
        elif notes and masks is None:
            fit, notes = "pad", (*notes, "fit is 'pad' instead of 'crop'")
        side = model.pipeline.settings.resolution
        with on_device(model.vq, working_memory=model.coding_memory(side, side)):
            tokens = at_rest(model.pipeline.encode_image(image, fit, masks))
        grid = token_grid(tokens.canvas, masks)
        return io.NodeOutput(tokens, grid, ui=shown(cls, (*notes, *tokens.notes), list(grid)))


def _inputs() -> list:
    """The picture, and how it meets the canvas."""
    return [
        ModelSocket.Input("model", tooltip=MODEL_TIP),
        io.Image.Input(
            "image",
            tooltip="One picture or a batch, RGB or RGBA; transparency is preserved.",
        ),
        io.Combo.Input(
            "fit",
            options=list(FITS),
            default="pad",
            optional=True,
            tooltip="How the picture is placed on the model's canvas. pad: the whole "
            "picture in a square with borders; the safe choice. native: a grid in the "
            "picture's own aspect ratio; finer for wide or tall pictures, but further from "
            "the training data. crop: only the area around the mask, so a small region of "
            "a large picture gets all the tokens; EditMGT Decode stitches it back.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="The area (white, above 0.5) that fit 'crop' crops around: one mask "
            "for all pictures or one each; other sizes are stretched to the picture, a "
            "blank one counts as none. It does not limit the edit; for that, connect it to "
            "the sampler's region as well.",
        ),
    ]
