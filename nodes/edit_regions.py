"""Node "Edit Regions": several regions of a picture, each with an instruction of its own."""

from comfy_api.latest import io
from torch import Tensor

from ..editmgt_lib.pictures.canvas import Tokens
from ..editmgt_lib.pictures.compositing import support
from ..editmgt_lib.sampling.options import SamplingOptions
from .batches import at_rest, region_masks, single_masks
from .compat import CATEGORY, known
from .memory import on_device
from .networks import Model
from .parsing import line_per_mask, text_lines
from .progress import Progress
from .region_hold_sampler import ended, main_numbers, sampled
from .sockets import MODEL_TIP, ModelSocket, TokensSocket

SOCKETS = 4


class EditRegions(io.ComfyNode):
    """One sampler per region, in a row."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_EditRegions",
            display_name="EditMGT Edit Regions",
            category=CATEGORY,
            description="Edits several regions, each by its own instruction, one after the other "
            "on tokens: nothing is decoded in between. The same as one Region-Hold Sampler per "
            "region.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                TokensSocket.Input("tokens", tooltip="From Encode Tokens, or from a sampler."),
                io.String.Input(
                    "instructions",
                    multiline=True,
                    default="make the background snow\nturn this into a sketch",
                    tooltip="One instruction per line, as many as there are regions: the first "
                    "line for the first mask, and so on. The order is the order of the edits.",
                ),
                *main_numbers(),
                *_regions(),
            ],
            outputs=[
                TokensSocket.Output(
                    display_name="TOKENS", tooltip="For Decode, or for the next edit."
                ),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="Tokens that differ from the original, at picture size.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "regional prompt", "multi inpaint"]),
        )

    @classmethod
    def validate_inputs(cls, instructions: str | None = None) -> bool | str:
        """At least one line; how many there must be is known once the masks are."""
        if instructions is not None and not text_lines(instructions):
            return "instructions is empty; write one line per mask"
        return True

    @classmethod
    def execute(
        cls,
        model: Model,
        tokens: Tokens,
        instructions: str,
        region: Tensor,
        steps: int = 0,
        guidance: float = 0.0,
        strength: float = 0.0,
        seed: int = 0,
        **more: Tensor | None,
    ) -> io.NodeOutput:
        """Edit region by region, and show what became of each."""
        settings = model.pipeline.settings.override(
            steps=steps or None, guidance=guidance or None, strength=strength or None, seed=seed
        )
        masks = single_masks([region, *(more.get(name) for name in _names())])
        texts = line_per_mask(instructions, len(masks))
        edited, notes, progress = edited_in_turn(model, tokens, texts, masks, settings.sampling)
        changed = support(edited.changed, edited.canvas, grow=0)
        return io.NodeOutput(edited, changed.float(), ui=ended(cls, notes, progress))


def _names() -> list[str]:
    return [f"region_{number}" for number in range(2, SOCKETS + 1)]


def _regions() -> list:
    """Masks; every one is a region."""
    return [
        io.Mask.Input(
            "region",
            tooltip="White (above 0.5) is the first region. A batch of masks counts as several "
            "regions, for segmentation nodes. Every picture of a batch gets the same regions; "
            "other sizes are stretched to the picture.",
        ),
        *(
            io.Mask.Input(
                name,
                optional=True,
                tooltip="The next region, or a batch of them. Where regions overlap, the later "
                "instruction edits the result of the earlier one.",
            )
            for name in _names()
        ),
    ]


def edited_in_turn(
    model: Model, tokens: Tokens, texts: list[str], masks: list[Tensor], options: SamplingOptions
) -> tuple[Tokens, list[str], Progress]:
    """Each edit starts from the tokens of the one before it; all use the same seed.

    Returns the last tokens, notes on every edit, and the progress of the last.
    """
    canvas, notes = tokens.canvas, []
    with on_device(*model.text):
        encoded = [at_rest(model.pipeline.encode_instruction(text)) for text in texts]
    for number, (instruction, mask) in enumerate(zip(encoded, masks, strict=True), 1):
        region, said = region_masks(mask, canvas.height, canvas.width)
        tokens, found, progress = sampled(
            model, tokens, instruction, options, None, region, "intersection", False
        )
        notes.append(f"{number}. {found.seconds:.1f} s, {found.changed:.0%} changed")
        notes += [f"{number}. {note}" for note in (*said, *instruction.notes)]
    return tokens, notes, progress
