"""Node "Encode Instruction": what to change, as text states."""

from comfy_api.latest import io

from ..editmgt_lib.errors import InputError
from .batches import at_rest
from .cards import shown
from .compat import CATEGORY, known
from .memory import on_device
from .networks import Model
from .parsing import AUTO, own_or
from .sockets import MODEL_TIP, InstructionSocket, ModelSocket

EMPTY = "text is empty; say what to change, as in 'make the background snow'"


class EncodeInstruction(io.ComfyNode):
    """Stage 2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_EncodeInstruction",
            display_name="EditMGT Encode Instruction",
            category=CATEGORY,
            description="Encodes one instruction for all pictures. The text encoders free their "
            "VRAM as soon as another stage needs it.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="make the background snow",
                    dynamic_prompts=True,
                    tooltip="What to change, as a command: 'remove the blue heart', 'make the "
                    "background snow'. Name the thing to change; the rest is kept. The toy model "
                    "understands short sentences about objects, colours, backgrounds and styles.",
                ),
                io.String.Input(
                    "negative",  # on one line, where the canvas shows its name beside "auto"
                    default=AUTO,
                    optional=True,
                    tooltip="What the result should not look like. auto: the checkpoint's default "
                    "(toyworld: none; published: a list of flaws). Empty: none. Only used when "
                    "guidance is above 1.",
                ),
            ],
            outputs=[
                InstructionSocket.Output(
                    display_name="INSTRUCTION", tooltip="For Consolidate Attention and the sampler."
                )
            ],
            **known(io.Schema, search_aliases=["editmgt", "prompt", "text encode"]),
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """An empty text edits nothing."""
        return EMPTY if text is not None and not text.strip() else True

    @classmethod
    def execute(cls, model: Model, text: str, negative: str = AUTO) -> io.NodeOutput:
        """Encode, and leave the result on the CPU."""
        if not text.strip():
            raise InputError(EMPTY)
        with on_device(*model.text):
            encoded = model.pipeline.encode_instruction(text, own_or(negative))
        return io.NodeOutput(at_rest(encoded), ui=shown(cls, encoded.notes))
