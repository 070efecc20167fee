"""Node "Load LoRA": a checkpoint with a LoRA on top."""

from dataclasses import replace

from comfy_api.latest import io

from ..editmgt_lib.lora import LARGEST_STRENGTH, Lora, read_stack
from . import paths
from .cards import shown
from .compat import CATEGORY, known
from .memory import with_lora
from .networks import Model
from .sockets import MODEL_TIP, ModelSocket


class LoadLora(io.ComfyNode):
    """Add a LoRA to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        loras = paths.loras()
        return io.Schema(
            node_id="EditMGT_LoadLora",
            display_name="EditMGT Load LoRA",
            category=CATEGORY,
            description="Adds a LoRA made for an EditMGT checkpoint: new objects, colors or styles "
            "from a small file. Several in a row add up.",
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP),
                io.Combo.Input(
                    "lora",
                    options=loras,
                    default=next(iter(loras), None),
                    tooltip="toyworld-pink comes with the pack and teaches the toy model a color. "
                    "Others are files in models/loras, trained for this checkpoint by editmgt, the "
                    "official script, diffusers, peft or kohya. LoRAs of other models are refused.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-LARGEST_STRENGTH,
                    max=LARGEST_STRENGTH,
                    step=0.05,
                    round=0.001,
                    tooltip="1: as trained. 0: as if the node were not there. Below 0: the "
                    "opposite.",
                ),
            ],
            outputs=[
                ModelSocket.Output(
                    display_name="MODEL",
                    tooltip="For all other EditMGT nodes, or for another LoRA.",
                )
            ],
            **known(io.Schema, search_aliases=["editmgt", "lora", "adapter", "finetune"]),
        )

    @classmethod
    def fingerprint_inputs(cls, model: Model, lora: str, strength: float = 1.0) -> str:
        """Load again once the file changes."""
        return paths.lora_fingerprint(lora)

    @classmethod
    def execute(cls, model: Model, lora: str, strength: float = 1.0) -> io.NodeOutput:
        """Read the file and add it to a copy of the model, which shares its weights."""
        loaded = Lora.read(paths.lora_file(lora))
        transformer = model.transformer
        for one, scale in read_stack([(loaded, strength)]):
            transformer = with_lora(transformer, one, scale)
        about = f"rank {loaded.rank}, alpha {loaded.alpha:g}, scope {loaded.scope}"
        trigger = loaded.metadata.get("trigger")
        words = (f"trigger: {trigger}",) if trigger else ()
        said = (about, *words, *loaded.notes)
        return io.NodeOutput(replace(model, transformer=transformer), ui=shown(cls, said))
