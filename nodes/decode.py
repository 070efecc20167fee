"""Node "Decode": tokens to pixels, put into the original picture."""

from comfy_api.latest import io

from ..editmgt_lib.pictures.canvas import Tokens
from .compat import CATEGORY, expert, known
from .memory import on_device, resting_place
from .networks import Model
from .sockets import MODEL_TIP, ModelSocket, TokensSocket


class Decode(io.ComfyNode):
    """Stage 5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_Decode",
            display_name="EditMGT Decode",
            category=CATEGORY,
            description="Decodes tokens and pastes what changed into the original picture, at its "
            "own size. Everything outside the changed mask stays identical, bit for bit.",
            inputs=_inputs(),
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture at its original size."),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="Where the picture may differ from the original. Everything else is "
                    "identical.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "vq decode", "detokenize"]),
        )

    @classmethod
    def execute(
        cls, model: Model, tokens: Tokens, feather: float = 0.0, grow: int = 1
    ) -> io.NodeOutput:
        """Decode and composite in float32."""
        with on_device(model.vq, working_memory=model.coding_memory(*tokens.canvas.size)):
            decoded = model.pipeline.decode(tokens, feather=feather, grow=grow)
        place = resting_place()
        return io.NodeOutput(decoded.image.to(place), decoded.changed.float().to(place))


def _inputs() -> list:
    """The tokens, and how their pixels meet the original."""
    return [
        ModelSocket.Input("model", tooltip=MODEL_TIP),
        TokensSocket.Input("tokens", tooltip="From a sampler, after any number of edits."),
        io.Float.Input(
            "feather",
            default=0.0,
            min=0.0,
            max=512.0,
            step=1.0,
            round=0.1,
            optional=True,
            tooltip="Width in pixels of the blend into the original, inside the changed "
            "mask only. 0: a hard edge. 2 to 8 hides seams; too much washes out small "
            "edits.",
        ),
        io.Int.Input(
            "grow",
            default=1,
            min=0,
            max=64,
            tooltip="How many tokens around each changed one to take from the decoded "
            "picture too, since changes bleed into their neighbours. 0 keeps the most of "
            "the original, 2 or 3 softens seams.",
            **expert(io.Int),
        ),
    ]
