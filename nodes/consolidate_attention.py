"""Node "Consolidate Attention": where will this instruction act?"""

from dataclasses import replace

from comfy_api.latest import io, ui

from ..editmgt_lib.choices import FILTERS, UPDATES
from ..editmgt_lib.errors import InputError
from ..editmgt_lib.localization.maps import Localization
from ..editmgt_lib.pictures.canvas import Tokens
from ..editmgt_lib.pictures.drawing import heat_map, relevance_on_picture
from ..editmgt_lib.settings import Settings
from ..editmgt_lib.text.instruction import Instruction
from ..editmgt_lib.text.words import split_phrases
from .batches import at_rest
from .compat import CATEGORY, expert, known
from .errors import verdict
from .memory import on_device
from .networks import Model
from .parsing import block_range
from .progress import Progress
from .sockets import (
    MODEL_TIP,
    InstructionSocket,
    LocalizationSocket,
    ModelSocket,
    TokensSocket,
)

NO_PICTURE = (
    "tokens hold no picture to search; they come from Empty Tokens: decode what the sampler made "
    "of them and encode it again"
)


class ConsolidateAttention(io.ComfyNode):
    """Stage 3."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_ConsolidateAttention",
            display_name="Consolidate Attention",
            category=CATEGORY,
            description="Reads from the model's attention where the instruction will act, in one "
            "pass, before sampling.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                TokensSocket.Input("tokens", tooltip="The picture, from EditMGT Encode Tokens."),
                InstructionSocket.Input("instruction", tooltip="From EditMGT Encode Instruction."),
                *_reading(),
            ],
            outputs=[
                LocalizationSocket.Output(
                    display_name="LOCALIZATION",
                    tooltip="For the sampler, which holds every token below its threshold.",
                ),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="The same map at picture size, 0 to 1. As a region, anything above 0.5 "
                    "may change; use Threshold Mask for a different cutoff.",
                ),
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="Heat map over the picture: red is relevant, blue is not.",
                ),
            ],
            **known(
                io.Schema,
                search_aliases=["editmgt", "attention map", "heat map", "segment"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, layers: str | None = "") -> bool | str:
        """Check the range of blocks."""
        return verdict(block_range, layers)

    @classmethod
    def execute(
        cls,
        model: Model,
        tokens: Tokens,
        instruction: Instruction,
        words: str = "",
        layers: str = "",
        filter: str = "adaptive",
        update: str = "step",
    ) -> io.NodeOutput:
        """Read one map per picture and draw it."""
        if tokens.canvas.source is None:
            raise InputError(NO_PICTURE)
        settings = model.pipeline.settings.override(
            words=split_phrases(words) or None,
            layers=block_range(layers),
            filter=filter,
            update=update,
        )
        localization = localized(model, tokens, instruction, settings)
        canvas = tokens.canvas
        mask = relevance_on_picture(localization.upsample(canvas.rows, canvas.cols), canvas)
        heat = heat_map(canvas.source, mask)
        return io.NodeOutput(localization, mask, heat, ui=ui.PreviewImage(heat, cls=cls))


def _reading() -> list:
    """What to read, and how to smooth it."""
    return [
        io.String.Input(
            "words",
            default="",
            optional=True,
            tooltip="Words or phrases of the instruction to look for, separated by commas: "
            "'boat' or 'red heart, mug'. Each must be in the instruction. Empty: the whole "
            "instruction. If the map covers everything, name the thing to change.",
        ),
        io.String.Input(
            "layers",
            default="",
            optional=True,
            tooltip="First and last block to read, such as 28-36, counting all blocks from 0. "
            "Empty: the checkpoint's default. Later blocks are sharper, earlier ones follow "
            "shapes. Change it only if the map looks wrong.",
        ),
        io.Combo.Input(
            "filter",
            options=list(FILTERS),
            default="adaptive",
            optional=True,
            tooltip="How to smooth the map. adaptive: flat areas more than edges, as in the paper. "
            "gaussian: evenly. none: not at all.",
        ),
        io.Combo.Input(
            "update",
            options=list(UPDATES),
            default="step",
            tooltip="How the sampler uses it. step: recomputes the map at every step with these "
            "settings, following the picture as it changes (as in the paper). once: keeps exactly "
            "the map shown here.",
            **expert(io.Combo),
        ),
    ]


def localized(
    model: Model, tokens: Tokens, instruction: Instruction, settings: Settings
) -> Localization:
    """Read one map per picture."""
    progress = Progress(tokens.canvas.batch)
    memory = model.sampling_memory(tokens.canvas, replace(settings.sampling, guidance=1.0))
    with on_device(model.transformer, working_memory=memory):
        found = model.pipeline.localize(
            tokens,
            instruction,
            settings.localization,
            settings.sampling,
            callback=lambda event: progress.reach(event.item + 1),
        )
    return at_rest(found)
