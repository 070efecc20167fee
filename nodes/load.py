"""Node "Load EditMGT": a checkpoint, ready to be used by all stages."""

from comfy_api.latest import io

from ..editmgt_lib.checkpoints.hub import DEFAULT_REPO, download
from ..editmgt_lib.checkpoints.names import TOY_NAME
from ..editmgt_lib.errors import EditMGTError
from . import paths
from .compat import CATEGORY, known
from .errors import verdict
from .memory import FORMATS
from .networks import PARTS, load
from .progress import Progress
from .sockets import ModelSocket

MEGABYTE = 10**6


class Load(io.ComfyNode):
    """Load a checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_Load",
            display_name="Load EditMGT",
            category=CATEGORY,
            description="Loads an EditMGT checkpoint. The toy model comes with the pack, to try "
            "the nodes on its own drawings; photographs need the published checkpoint.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*paths.choices(), DEFAULT_REPO + paths.DOWNLOAD],
                    default=TOY_NAME,
                    tooltip="toyworld comes with the pack, to try the nodes: it runs on a CPU in "
                    "seconds, but knows only the drawings of ToyWorld Picture and spoils any other "
                    "picture. For photographs choose the last entry: it downloads the published "
                    "checkpoint from Hugging Face into models/editmgt/ if it is missing (about "
                    "16 GB; can be cancelled and resumed). No other entry uses the network. Your "
                    "own checkpoints are folders in models/editmgt/ (parts may also be in "
                    "diffusion_models, vae and text_encoders), or single files written by "
                    "'editmgt convert', there or in models/checkpoints/.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *FORMATS],
                    default="auto",
                    optional=True,
                    tooltip="Precision of the transformer and text encoders. auto follows ComfyUI: "
                    "bf16 where supported, otherwise fp32. fp32 scores slightly higher (as "
                    "measured by the authors) but takes twice the memory. fp8, for small cards, "
                    "stores the large weights of all three in a quarter of fp32's memory and "
                    "widens them on use; with auto, a file in fp8 stays so. fp16 may overflow. The "
                    "picture tokenizer is always fp32.",
                ),
            ],
            outputs=[
                ModelSocket.Output(display_name="MODEL", tooltip="For all other EditMGT nodes.")
            ],
            **known(io.Schema, search_aliases=["editmgt", "checkpoint", "masked generative"]),
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Check the files before the run is queued."""
        if checkpoint is None or checkpoint.endswith(paths.DOWNLOAD):
            return True
        return verdict(paths.locate, checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, dtype: str = "auto") -> str:
        """Load again once the files change."""
        return paths.fingerprint(checkpoint.removesuffix(paths.DOWNLOAD))

    @classmethod
    def execute(cls, checkpoint: str, dtype: str = "auto") -> io.NodeOutput:
        """Load, downloading what is missing first if asked to."""
        name = checkpoint.removesuffix(paths.DOWNLOAD)
        if name != checkpoint:
            fetch(name)
        return io.NodeOutput(load(name, dtype, Progress(PARTS)))


def fetch(name: str) -> None:
    """Download a checkpoint unless it is complete; cancelling raises ComfyUI's interrupt."""
    try:
        paths.locate(name)
        return
    except EditMGTError:
        pass
    bars: dict[int, Progress] = {}

    def report(_: str, done: int, total: int) -> None:
        bars.setdefault(total, Progress(max(total // MEGABYTE, 1))).reach(done // MEGABYTE)

    download(name, folder=paths.download_folder(name), progress=report)
