"""Node "Region-Hold Sampler": predict the tokens the instruction is about, hold the others."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
from .batches import at_rest, region_masks
from .cards import card, shown
from .compat import CATEGORY, expert, known
from .memory import dtype_name, on_device
from .networks import Model
from .progress import LivePreview, Progress, previews_wanted
from .reports import Measured, Watch, foreign_numbers, sampling_report
from .sockets import (
    MODEL_TIP,
    InstructionSocket,
    LocalizationSocket,
    ModelSocket,
    TokensSocket,
)

SPEEDS = {"exact": {}, "fast": FAST}
PUBLISHED = SamplingOptions()


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
            "not about. The preview shows the picture so far, open tokens hatched, held ones blue; "
            "afterwards what was used and what came of it is written below.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                TokensSocket.Input(
                    "tokens",
                    tooltip="From EditMGT Encode Tokens, or from another sampler: edits chain "
                    "without decoding in between.",
                ),
                InstructionSocket.Input("instruction", tooltip="From EditMGT Encode Instruction."),
                *_numbers(),
                *_holding(),
            ],
            outputs=[
                TokensSocket.Output(
                    display_name="TOKENS", tooltip="For EditMGT Decode, or for the next edit."
                ),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="Tokens that differ from the original, at picture size. EditMGT "
                    "Decode's mask shows the pixels they affect.",
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
        batched: bool = False,
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
        options, canvas = settings.sampling, tokens.canvas
        union = combine == "union" and options.threshold > 0
        masks, notes = region_masks(region, canvas.height, canvas.width, every=union)
        edited, found, progress = sampled(
            model, tokens, instruction, options, localization, masks, combine, batched
        )
        place = f"{model.pipeline.device.type} {dtype_name(model.pipeline.dtype)}"
        report = sampling_report(options, canvas.batch, place, found)
        unchanged = unchanged_notes(replace(edited, source_ids=tokens.ids))  # by this edit
        own = foreign_numbers(options, model.pipeline.settings.sampling)
        said = (report, *own, *notes, *unchanged)
        changed = support(edited.changed, edited.canvas, grow=0)
        return io.NodeOutput(edited, changed.float(), ui=ended(cls, said, progress))


def _numbers() -> list:
    """Numbers and choices of a run: as published, where 0 takes the checkpoint's own."""
    return [
        io.Int.Input(
            "steps", default=PUBLISHED.steps, min=0, max=1000, optional=True,
            tooltip="Sampling steps: 36 for the published checkpoint, 16 for toyworld; 0 takes the "
            "checkpoint's own. More is finer and slower; 16 is enough for simple edits.",
        ),
        io.Float.Input(
            "guidance", default=PUBLISHED.guidance, min=0.0, max=100.0, step=0.05, round=0.01,
            optional=True,
            tooltip="How closely to follow the instruction: 6 for the published checkpoint, 1.25 "
            "for toyworld; 0 takes the checkpoint's own. 1 or less turns guidance off and is twice "
            "as fast. Raise it if nothing happens, lower it if colours burn.",
        ),
        io.Float.Input(
            "strength", default=PUBLISHED.strength, min=0.0, max=100.0, step=0.05, round=0.001,
            optional=True,
            tooltip="How much attention the original picture gets: 1.1 for the published "
            "checkpoint and toyworld; 0 takes the checkpoint's own. Above 1 stays closer to the "
            "original, below 1 drifts away; 0.8 to 1.3 is the useful range.",
        ),
        io.Float.Input(
            "threshold", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, optional=True,
            tooltip="Lambda: tokens less relevant to the instruction than this are held. 0: off; "
            "0.05 to 0.2 suits most edits; 1 holds everything. Raise it if too much changes, lower "
            "it if the edit is cut off.",
        ),
        io.Combo.Input(
            "hold_rule", options=list(HOLD_RULES), default="proposal",
            tooltip="How tokens are held. proposal: a held token proposes its original value and "
            "competes with the others (published code). restore: held tokens are reset to the "
            "original after every step (paper, stricter).",
            **expert(io.Combo),
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, optional=True,
            tooltip="A different seed gives a different result. Picture k of a batch uses seed + "
            "k, and comes out the same on its own with that seed.",
        ),
    ]  # fmt: skip


def main_numbers() -> list:
    """The widgets that any node which samples has."""
    return [item for item in _numbers() if item.id in ("steps", "guidance", "strength", "seed")]


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
            tooltip="White (above 0.5) may change, black stays identical, bit for bit. One mask "
            "for all pictures or one each; other sizes are stretched to the picture, and a blank "
            "one, as Load Image gives where nothing is painted, sets no region.",
        ),
        io.Combo.Input(
            "combine",
            options=list(COMBINATIONS),
            default="intersection",
            tooltip="With both a region and a threshold: a token may change if it is in the region "
            "AND relevant (intersection), or if it is either (union).",
            **expert(io.Combo),
        ),
        *_running(),
    ]


def _running() -> list:
    """How the network runs."""
    return [
        io.Combo.Input(
            "speed",
            options=list(SPEEDS),
            default="exact",
            tooltip="exact: every step computes everything. fast: known tokens and the original "
            "are recomputed only every 8th step, and guidance stops halfway; up to twice as fast, "
            "most with a small region. A few tokens may differ.",
            **expert(io.Combo),
        ),
        io.Boolean.Input(
            "batched",
            default=False,
            tooltip="On: the pictures of a batch go through the network together, faster on a "
            "graphics card and in more memory; a token may depend on the other pictures. Off: one "
            "by one, each exactly as it comes out on its own.",
            **expert(io.Boolean),
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
    batched: bool,
) -> tuple[Tokens, Measured, Progress]:
    """Edit a batch, with progress and, where ComfyUI shows them, previews."""
    canvas, networks = tokens.canvas, [model.transformer]
    together = canvas.batch if batched else 1
    memory = model.sampling_memory(canvas, options, together)
    union = combine == "union" and options.threshold > 0
    fixed, preview = _fixed(region, canvas, union), None
    if previews_wanted():
        preview = LivePreview(model.pipeline.vq, canvas, fixed)
        networks.append(model.vq)
        memory = max(memory, model.coding_memory(*canvas.size))
    progress, watch = Progress(options.steps * canvas.batch // together), Watch(fixed)

    def report(event: StepEvent) -> None:
        watch.see(event)
        done = event.item * event.steps + event.step + 1
        progress.reach(done, preview(event) if preview else None)

    with on_device(*networks, working_memory=memory):
        began = time.monotonic()
        edited, _ = model.pipeline.sample(
            tokens, instruction, options, localization=localization, region=region,
            combine=combine, callback=report, batched=batched,
        )  # fmt: skip
        edited = at_rest(edited)
    found = Measured(time.monotonic() - began, *watch.shares(tokens, edited))
    return edited, found, progress


def ended(
    cls: type[io.ComfyNode], notes: Sequence[str], progress: Progress
) -> dict[str, Any] | None:
    """The `ui` of a node that sampled: its last preview with notes."""
    picture = progress.picture
    if picture is None:
        return shown(cls, notes)
    # Also as the last preview, which the canvas prefers to the node's own pictures.
    progress.reach(progress.done, card("\n".join(notes), picture))
    return shown(cls, notes, [picture])


def _fixed(region: Tensor | None, canvas: Canvas, union: bool) -> Tensor | None:
    """Tokens that a region alone rules out, bool [B, rows, cols]."""
    if region is None or union:
        return None
    return ~project_mask(region, canvas)
