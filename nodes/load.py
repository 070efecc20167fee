"""Node "Load EditMGT": a checkpoint, ready to be used by all stages."""

from comfy_api.latest import io

from ..editmgt_lib.checkpoints.hub import DEFAULT_REPO, download
from ..editmgt_lib.errors import EditMGTError
from . import paths
from .compat import CATEGORY, expert, known
from .memory import FORMATS
from .networks import PARTS, load
from .progress import Progress
from .sockets import ModelSocket

MEGABYTE = 1 << 20


class Load(io.ComfyNode):
    """Load a checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_Load",
            display_name="Load EditMGT",
            category=CATEGORY,
            description="Loads an EditMGT checkpoint. The toy model is shipped with the pack.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=paths.choices(),
                    tooltip="toyworld comes with the pack, runs on a CPU in seconds and knows only "
                    "its own little pictures. Others are folders in models/editmgt/ (parts of them "
                    "may lie in diffusion_models, vae and text_encoders). The last entry is the "
                    "published checkpoint; it needs the switch 'download' once.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *FORMATS],
                    default="auto",
                    optional=True,
                    tooltip="Number format of transformer and text encoders. auto follows ComfyUI: "
                    "bf16 on cards that have it, else fp32. fp32 scores slightly higher (the "
                    "authors measured) and needs twice the memory; fp8 keeps the large weights in "
                    "a quarter of fp32 and casts them in use: for small cards. fp16 may overflow. "
                    "The picture tokenizer is always fp32.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip="Fetch the published checkpoint from Hugging Face into models/editmgt/ "
                    "if it is not there (several GB; can be cancelled, goes on where it stopped). "
                    "Off: the network is never touched. Other checkpoints ignore it.",
                    **expert(io.Boolean),
                ),
            ],
            outputs=[
                ModelSocket.Output(display_name="MODEL", tooltip="For all other EditMGT nodes.")
            ],
            **known(io.Schema, search_aliases=["editmgt", "checkpoint", "masked generative"]),
        )

    @classmethod
    def validate_inputs(
        cls, checkpoint: str | None = None, download: bool | None = False
    ) -> bool | str:
        """What can be said of the files before the queue starts."""
        if checkpoint is None or (download and checkpoint == DEFAULT_REPO):
            return True
        try:
            paths.locate(checkpoint)
        except EditMGTError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str, dtype: str = "auto", download: bool = False
    ) -> str:
        """Other files on the disk, another model."""
        return paths.fingerprint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, dtype: str = "auto", download: bool = False) -> io.NodeOutput:
        """Load, after fetching what is missing if that was asked for."""
        if download and checkpoint == DEFAULT_REPO:
            fetch(checkpoint)
        return io.NodeOutput(load(checkpoint, dtype, Progress(PARTS)))


def fetch(name: str) -> None:
    """Download a checkpoint where it is not complete; cancelling raises ComfyUI's interrupt."""
    try:
        paths.locate(name)
        return
    except EditMGTError:
        pass
    bars: dict[int, Progress] = {}

    def report(_: str, done: int, total: int) -> None:
        bars.setdefault(total, Progress(max(total // MEGABYTE, 1))).reach(done // MEGABYTE)

    download(name, folder=paths.download_folder(name), progress=report)
