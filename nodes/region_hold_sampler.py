"""Node "Region-Hold Sampler": predict the tokens the instruction is about, hold the others."""

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..editmgt_lib.choices import COMBINATIONS, HOLD_RULES
from ..editmgt_lib.localization.maps import Localization
from ..editmgt_lib.pictures.canvas import Canvas, Tokens
from ..editmgt_lib.pictures.compositing import project_mask, support
from ..editmgt_lib.results import unchanged_notes
from ..editmgt_lib.sampling.loop import StepEvent
from ..editmgt_lib.sampling.options import FAST, SamplingOptions
from ..editmgt_lib.text.instruction import Instruction
from .batches import as_masks, at_rest
from .compat import CATEGORY, known
from .memory import on_device
from .networks import Model
from .progress import LivePreview, Progress, previews_wanted, show_notes
from .sockets import (
    MODEL_TIP,
    InstructionSocket,
    LocalizationSocket,
    ModelSocket,
    TokensSocket,
)

SPEEDS = {"exact": {}, "fast": FAST}


class RegionHoldSampler(io.ComfyNode):
    """Stage 4."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_RegionHoldSampler",
            display_name="Region-Hold Sampler",
            category=CATEGORY,
            description="Predicts new image tokens step by step and holds those the instruction is "
            "not about. The preview shows the picture so far: open tokens hatched, held ones blue.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                TokensSocket.Input(
                    "tokens",
                    tooltip="From Encode Tokens, or from another sampler: edits chain without "
                    "decoding in between.",
                ),
                InstructionSocket.Input("instruction", tooltip="From Encode Instruction."),
                *_numbers(),
                *_holding(),
            ],
            outputs=[
                TokensSocket.Output(
                    display_name="TOKENS", tooltip="For Decode, or for the next edit."
                ),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="Tokens that differ from the original, at picture size. Decode's mask "
                    "shows the pixels they affect.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "inpaint", "edit image"]),
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        tokens: Tokens,
        instruction: Instruction,
        steps: int = 0,
        guidance: float = 0.0,
        strength: float = 0.0,
        threshold: float = 0.0,
        hold_rule: str = "proposal",
        seed: int = 0,
        localization: Localization | None = None,
        region: Tensor | None = None,
        combine: str = "intersection",
        speed: str = "exact",
    ) -> io.NodeOutput:
        """Sample, and show what changed."""
        settings = model.pipeline.settings.override(
            steps=steps or None,
            guidance=guidance or None,
            strength=strength or None,
            threshold=threshold,
            hold_rule=hold_rule,
            seed=seed,
            **SPEEDS[speed],
        )
        edited = sampled(
            model, tokens, instruction, settings.sampling, localization, as_masks(region), combine
        )
        show_notes(unchanged_notes(replace(edited, source_ids=tokens.ids)))  # by this edit
        changed = support(edited.changed, edited.canvas, grow=0)
        return io.NodeOutput(edited, changed.float())


def _numbers() -> list:
    """Numbers and choices of a run."""
    return [
        io.Int.Input(
            "steps", default=0, min=0, max=1000, optional=True,
            tooltip="Sampling steps, 1 to 1000. 0: the checkpoint's default (toyworld 16, "
            "published 36). More is finer and slower; 16 is enough for simple edits.",
        ),
        io.Float.Input(
            "guidance", default=0.0, min=0.0, max=100.0, step=0.5, round=0.01, optional=True,
            tooltip="How closely to follow the instruction. 0: the checkpoint's default (toyworld "
            "1, published 6). 1 or less turns guidance off and is twice as fast. Raise it if "
            "nothing happens, lower it if colours burn.",
        ),
        io.Float.Input(
            "strength", default=0.0, min=0.0, max=100.0, step=0.05, round=0.001, optional=True,
            tooltip="How much attention the original picture gets. 0: the checkpoint's default "
            "(toyworld 1, published 1.1). Above 1 stays closer to the original, below 1 drifts "
            "away; 0.8 to 1.3 is the useful range.",
        ),
        io.Float.Input(
            "threshold", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, optional=True,
            tooltip="Lambda: tokens less relevant to the instruction than this are held. 0: off; "
            "0.05 to 0.2 suits most edits; 1 holds everything. Raise it if too much changes, lower "
            "it if the edit is cut off.",
        ),
        io.Combo.Input(
            "hold_rule", options=list(HOLD_RULES), default="proposal", optional=True,
            tooltip="How tokens are held. proposal: a held token proposes its original value and "
            "competes with the others (published code). restore: held tokens are reset to the "
            "original after every step (paper, stricter).",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, optional=True,
            tooltip="A different seed gives a different result. Picture k of a batch uses seed + "
            "k, and comes out the same on its own with that seed.",
        ),
    ]  # fmt: skip


def _holding() -> list:
    """Where the picture may change."""
    return [
        LocalizationSocket.Input(
            "localization",
            optional=True,
            tooltip="From Consolidate Attention: the map that the threshold applies to. Without "
            "it, a map is read with the checkpoint's default settings. No effect while the "
            "threshold is 0.",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where the picture may change (above 0.5): one mask for all pictures or one "
            "each, at picture size. Everything else stays identical, bit for bit.",
        ),
        io.Combo.Input(
            "combine",
            options=list(COMBINATIONS),
            default="intersection",
            optional=True,
            tooltip="With both a region and a threshold: a token may change if it is in the region "
            "AND relevant (intersection), or if it is either (union).",
        ),
        io.Combo.Input(
            "speed",
            options=list(SPEEDS),
            default="exact",
            optional=True,
            tooltip="exact: every step computes everything. fast: known tokens and the original "
            "are recomputed only every 8th step, and guidance stops halfway; up to twice as fast, "
            "most with a small region. A few tokens may differ.",
        ),
    ]


def sampled(
    model: Model,
    tokens: Tokens,
    instruction: Instruction,
    options: SamplingOptions,
    localization: Localization | None,
    region: Tensor | None,
    combine: str,
) -> Tokens:
    """Edit a batch, with progress and, where ComfyUI shows them, previews."""
    canvas, networks = tokens.canvas, [model.transformer]
    memory = model.sampling_memory(canvas, options)
    union = combine == "union" and options.threshold > 0
    fixed, preview = _fixed(region, canvas, union), None
    if previews_wanted():
        preview = LivePreview(model.pipeline.vq, canvas, fixed)
        networks.append(model.vq)
        memory = max(memory, model.coding_memory(*canvas.size))
    progress = Progress(options.steps * canvas.batch)

    def report(event: StepEvent) -> None:
        done = event.item * event.steps + event.step + 1
        progress.reach(done, preview(event) if preview else None)

    with on_device(*networks, working_memory=memory):
        edited, _ = model.pipeline.sample(
            tokens, instruction, options, localization=localization, region=region,
            combine=combine, callback=report,
        )  # fmt: skip
    return at_rest(edited)


def _fixed(region: Tensor | None, canvas: Canvas, union: bool) -> Tensor | None:
    """Tokens that a region alone rules out, bool [B, rows, cols]."""
    if region is None or union:
        return None
    return ~project_mask(region, canvas)
