"""Node "Compile Model": a checkpoint whose transformer runs compiled."""

from dataclasses import replace

from comfy_api.latest import io

from ..editmgt_lib.errors import EditMGTError
from .compat import CATEGORY, expert, known
from .compilers import missing_compiler
from .memory import with_compiled_blocks
from .networks import Model
from .sockets import MODEL_TIP, ModelSocket

BACKENDS = ("inductor", "eager")
MODES = ("default", "max-autotune-no-cudagraphs")  # graphs would overwrite what blocks hand on


class CompileModel(io.ComfyNode):
    """Compile a model's blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_CompileModel",
            display_name="EditMGT Compile Model",
            category=CATEGORY,
            description="Makes sampling faster with torch.compile. The first run after it takes "
            "minutes longer, so it pays off for many runs. Needs a compiler; results differ by "
            "rounding.",
            is_experimental=True,
            inputs=[
                ModelSocket.Input("model", tooltip=MODEL_TIP + " LoRAs go before this node."),
                io.Combo.Input(
                    "backend",
                    options=list(BACKENDS),
                    default="inductor",
                    tooltip="inductor: PyTorch's compiler. eager: everything but the compiling, "
                    "no faster; to see whether a fault is the compiler's.",
                    **expert(io.Combo),
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="default",
                    tooltip="max-autotune-no-cudagraphs tries out more variants: compiles longer, "
                    "runs a little faster on large graphics cards. No effect with eager.",
                    **expert(io.Combo),
                ),
            ],
            outputs=[
                ModelSocket.Output(display_name="MODEL", tooltip="For all other EditMGT nodes.")
            ],
            **known(io.Schema, search_aliases=["editmgt", "torch.compile", "speed"]),
        )

    @classmethod
    def execute(
        cls, model: Model, backend: str = "inductor", mode: str = "default"
    ) -> io.NodeOutput:
        """A copy of the model, which shares its weights; it is compiled when it first samples."""
        options = {"backend": backend}
        if backend == "inductor":
            options["mode"] = mode
            if lacking := missing_compiler(model.pipeline.device.type):
                raise EditMGTError(
                    f"torch.compile needs {lacking}, which is not installed. Remove or bypass "
                    "EditMGT Compile Model: everything works without it"
                )
        transformer = with_compiled_blocks(model.transformer, **options)
        return io.NodeOutput(replace(model, transformer=transformer))
