"""Node "Load Folder": pictures one by one, with their names."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..editmgt_lib.errors import InputError
from ..editmgt_lib.pictures.formats import READABLE
from ..editmgt_lib.pictures.images import read_image
from .compat import CATEGORY, known
from .errors import verdict

HERE = "."  # ComfyUI's input folder itself


class LoadFolder(io.ComfyNode):
    """A list of pictures, and a list of names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_LoadFolder",
            display_name="EditMGT Load Folder",
            category=CATEGORY,
            description="Loads the pictures of a folder, each at its own size: every node after it "
            "runs once per picture. Link STRING to filename_prefix of Save Image, and each result "
            "keeps its picture's name.",
            inputs=_inputs(),
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    is_output_list=True,
                    tooltip="The pictures, one at a time; transparency is kept.",
                ),
                io.String.Output(
                    display_name="STRING",
                    is_output_list=True,
                    tooltip="The name of each without its extension: for filename_prefix of Save "
                    "Image, which appends a number.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "batch", "directory", "load images"]),
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """Check that there are pictures before the run is queued."""
        return verdict(pictures, folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str, skip: int = 0, most: int = 0) -> str:
        """Load again once the files change."""
        try:
            files = pictures(folder, skip, most)
        except InputError as error:
            return str(error)
        return repr([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])

    @classmethod
    def execute(cls, folder: str, skip: int = 0, most: int = 0) -> io.NodeOutput:
        """Read them."""
        files = pictures(folder, skip, most)
        return io.NodeOutput([read_image(f).pixels for f in files], [f.stem for f in files])


def _inputs() -> list:
    """Which folder, and which part of it."""
    return [
        io.Combo.Input(
            "folder",
            options=[HERE, *sorted(folder_paths.get_input_subfolders())],
            default=HERE,
            tooltip="A folder inside ComfyUI's input folder; '.' is the input folder "
            "itself. Pictures come in the order of their names.",
        ),
        io.Int.Input(
            "skip",
            default=0,
            min=0,
            max=2**31 - 1,
            optional=True,
            tooltip="How many pictures to leave out at the start, to go through a large "
            "folder in parts.",
        ),
        io.Int.Input(
            "most",
            default=0,
            min=0,
            max=2**31 - 1,
            optional=True,
            tooltip="How many pictures to load. 0: all that are left; they are in memory "
            "at the same time.",
        ),
    ]


def pictures(folder: str, skip: int = 0, most: int = 0) -> list[Path]:
    """Files with a picture's ending in a folder of ComfyUI's input folder, in order.

    Raises InputError if the folder is not one of them or there are none.
    """
    if folder not in (HERE, *folder_paths.get_input_subfolders()):
        raise InputError(f"there is no folder {folder!r} in ComfyUI's input folder")
    place = Path(folder_paths.get_input_directory()) / folder
    found = sorted(f for f in place.iterdir() if f.suffix.lower() in READABLE and f.is_file())
    if not found[skip:]:
        left = f" after the first {skip}" if found else ""
        raise InputError(f"folder {folder!r} has no pictures{left}; put some into {place}")
    return found[skip : skip + most] if most else found[skip:]
