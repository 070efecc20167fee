"""Node "Empty Tokens": a blank canvas, to make a picture from text alone."""

from comfy_api.latest import io

from .compat import CATEGORY, known
from .networks import Model
from .sockets import MODEL_TIP, ModelSocket, TokensSocket

SIDE = {"default": 1024, "min": 0, "max": 8192, "step": 32, "optional": True}
SIZES = (
    "in pixels, a multiple of 32; 0 takes the checkpoint's own (1024 for the published one, 256 "
    "for toyworld), which gives the best pictures."
)


class EmptyTokens(io.ComfyNode):
    """Stage 1 where there is no picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_EmptyTokens",
            display_name="EditMGT Empty Tokens",
            category=CATEGORY,
            description="Starts from nothing instead of a picture: the sampler then draws what the "
            "text describes (text to image).",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                io.Int.Input("width", tooltip=f"Width {SIZES}", **SIDE),
                io.Int.Input("height", tooltip=f"Height {SIZES}", **SIDE),
                io.Int.Input(
                    "batch",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="Number of pictures, 1 to 64. Picture k uses the sampler's seed + k.",
                ),
            ],
            outputs=[
                TokensSocket.Output(
                    display_name="TOKENS",
                    tooltip="For the sampler, with threshold 0 and no region: there is no picture "
                    "to hold on to yet.",
                )
            ],
            **known(
                io.Schema, search_aliases=["editmgt", "text to image", "txt2img", "empty latent"]
            ),
        )

    @classmethod
    def execute(
        cls, model: Model, width: int = 1024, height: int = 1024, batch: int = 1
    ) -> io.NodeOutput:
        """Fill the canvas with unknown tokens."""
        own = model.pipeline.settings.resolution
        return io.NodeOutput(model.pipeline.blank_tokens(batch, (height or own, width or own)))
