"""Node "Region-Hold Sampler": draw the tokens the instruction is about, hold the others."""

from collections.abc import Callable
from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..editmgt_lib.choices import COMBINATIONS, HOLD_RULES
from ..editmgt_lib.localization.maps import Localization
from ..editmgt_lib.pictures.fitting import Canvas, Tokens, project_mask, support
from ..editmgt_lib.sampling.loop import StepEvent
from ..editmgt_lib.sampling.options import FAST, SamplingOptions
from ..editmgt_lib.sampling.predictor import fitting
from ..editmgt_lib.text.instruction import Instruction
from .batches import as_masks, each_mask, joined
from .compat import CATEGORY, known
from .memory import on_device
from .networks import Model
from .progress import LivePreview, Progress, previews_wanted
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
            description="Draws new image tokens step by step and holds those that the edit is not "
            "about. The preview shows the partial picture: open tokens hatched, held ones blue.",
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
                    tooltip="Tokens that differ from the original picture, at picture size. Decode "
                    "gives the pixels they reach.",
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
        own = model.pipeline.settings.sampling
        options = replace(
            own,
            steps=steps or own.steps,
            guidance=guidance or own.guidance,
            strength=strength or own.strength,
            threshold=threshold,
            hold_rule=hold_rule,
            seed=seed,
            **SPEEDS[speed],
        )
        edited = sampled(
            model, tokens, instruction, options, localization, as_masks(region), combine
        )
        changed = support(edited.changed, edited.canvas, grow=0)
        return io.NodeOutput(edited, changed.float())


def _numbers() -> list:
    """The widgets of any sampler."""
    return [
        io.Int.Input(
            "steps", default=0, min=0, max=1000, optional=True,
            tooltip="Forward passes, 1 to 1000. 0: the checkpoint's own (toyworld 16, published "
            "36). More draws fewer tokens at a time: finer, slower; 16 is enough for simple edits.",
        ),
        io.Float.Input(
            "guidance", default=0.0, min=0.0, max=100.0, step=0.5, round=0.01, optional=True,
            tooltip="How strictly the instruction is followed. 0: the checkpoint's own (toyworld "
            "1, published 6). Up to 1 is off and twice as fast. Raise it if nothing happens, lower "
            "it if colours burn.",
        ),
        io.Float.Input(
            "strength", default=0.0, min=0.0, max=100.0, step=0.05, round=0.001, optional=True,
            tooltip="How much attention the original picture gets. 0: the checkpoint's own "
            "(toyworld 1, published 1.1). Above 1 stays closer to the picture, below 1 drifts "
            "away; 0.8 to 1.3 is the useful range.",
        ),
        io.Float.Input(
            "threshold", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, optional=True,
            tooltip="Lambda: tokens less relevant to the instruction than this are held. 0 is off, "
            "0.05 to 0.2 suits most edits, 1 holds everything. Raise it if too much changes, lower "
            "it if the edit is cut off.",
        ),
        io.Combo.Input(
            "hold_rule", options=list(HOLD_RULES), default="proposal", optional=True,
            tooltip="What holding does. proposal: a held token proposes the original and competes "
            "with the others (published code). restore: every held token is the original after "
            "each step (paper); stricter.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, optional=True,
            tooltip="Another seed, another result of the same words. Picture k of a batch uses "
            "seed + k, and comes out the same alone with that seed.",
        ),
    ]  # fmt: skip


def _holding() -> list:
    """Where the picture may change."""
    return [
        LocalizationSocket.Input(
            "localization",
            optional=True,
            tooltip="From Consolidate Attention: what the threshold is compared with. Without it "
            "the checkpoint's own way of reading is used. No effect while the threshold is 0.",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where the picture may change (above 0.5): one mask for all pictures or one "
            "each, of their size. Everything else stays as it is, bit for bit.",
        ),
        io.Combo.Input(
            "combine",
            options=list(COMBINATIONS),
            default="intersection",
            optional=True,
            tooltip="With a region and a threshold: whether a token must be in the region AND "
            "relevant (intersection), or either of both (union) to change.",
        ),
        io.Combo.Input(
            "speed",
            options=list(SPEEDS),
            default="exact",
            optional=True,
            tooltip="exact: every step computes everything. fast: known tokens and the original "
            "picture are computed at every 8th step only, and guidance acts in the first half; up "
            "to twice as fast, most with a small region. A token may come out differently.",
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
    """The edited batch, picture by picture."""
    canvas, shown = tokens.canvas, previews_wanted()
    union = combine == "union" and options.threshold > 0
    every, maps = range(canvas.batch), [None] * canvas.batch
    if localization is not None:
        fitted = fitting(localization, canvas.batch, (canvas.rows, canvas.cols))
        maps = [fitted.item(k) for k in every]
    items = zip(
        map(tokens.item, every),
        map(instruction.expand(canvas.batch).item, every),
        maps,
        each_mask(region, canvas.batch),
        each_mask(_fixed(region, canvas, union), canvas.batch),
        options.seeds(canvas.batch),
        strict=True,
    )
    networks = [model.transformer]
    memory = model.sampling_memory(canvas, kept=options.reuse != "none")
    if shown:
        networks.append(model.vq)
        memory = max(memory, model.coding_memory(*canvas.size))
    progress, ids = Progress(options.steps * canvas.batch), []
    with on_device(*networks, working_memory=memory):
        for k, (item, prompt, found, mask, fixed, seed) in enumerate(items):
            preview = LivePreview(model.pipeline.vq, item, fixed) if shown else None
            edited, _ = model.pipeline.sample(
                item, prompt, replace(options, seed=seed), localization=found, region=mask,
                combine=combine, callback=_reporter(progress, k * options.steps, preview),
            )  # fmt: skip
            ids.append(edited.ids)
            progress.reach((k + 1) * options.steps)
    return tokens.with_ids(joined(ids))


def _fixed(region: Tensor | None, canvas: Canvas, union: bool) -> Tensor | None:
    """Tokens that a region alone rules out, bool [B, rows, cols]; refuses masks that do not fit."""
    if region is None:
        return None
    cells = project_mask(region, canvas, required=True)
    return None if union else ~cells


def _reporter(
    progress: Progress, done: int, preview: LivePreview | None
) -> Callable[[StepEvent], None]:
    """What to do after each step of an item; `done` counts those of the items before it."""

    def report(event: StepEvent) -> None:
        progress.reach(done + event.step + 1, preview(event) if preview else None)

    return report
