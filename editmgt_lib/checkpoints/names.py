"""From the name a user gives to the folder or file of a checkpoint."""

import os
import re
from pathlib import Path

from ..errors import CheckpointError, InputError
from .hub import download, find_downloaded, folder_for
from .layout import check_folder

TOY_NAME = "toyworld"
TOY_FOLDER = Path(__file__).resolve().parent.parent / "toyworld" / "checkpoint"
TOY_LORA = TOY_FOLDER.with_name("toyworld-pink.safetensors")
"""Teaches the toy model `language.SPARE_COLOR`."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve(
    name: str | Path,
    *,
    local_dir: str | Path | None = None,
    allow_download: bool = False,
) -> Path:
    """The complete checkpoint folder, or single file, that `name` stands for.

    name: "toyworld" for the shipped toy model; a folder; a file that `pack` wrote; or an
        "owner/name" of the Hugging Face Hub that was downloaded before, into `local_dir` or into
        the Hub's own cache.
    local_dir: where downloaded checkpoints are kept, one folder each; default ~/.cache/editmgt.
    allow_download: fetch what is not there; without it the network is never touched.

    Raises InputError when nothing of this name is here, CheckpointError naming the parts that a
    folder lacks; with `allow_download` also what `download` raises.
    """
    if str(name) == TOY_NAME:
        if not TOY_FOLDER.is_dir():
            raise CheckpointError(f"this installation lacks {TOY_FOLDER}; install it again")
        return check_folder(TOY_FOLDER)
    folder = Path(os.path.expanduser(name))
    if not _is_hub_id(name):
        if not str(name) or folder.name == str(name) and not os.path.lexists(folder):
            raise InputError(
                f"there is no checkpoint {str(name)!r}; give a folder or file, {TOY_NAME!r} or a "
                "Hub name owner/name"
            )
        return check_folder(folder)
    found = find_downloaded(name, local_dir)
    if found is not None:
        return found
    home = folder_for(name, local_dir)
    if allow_download:
        return download(name, folder=home)
    raise InputError(
        f"{name} is not downloaded ({home} is not complete), and there is no folder of this name; "
        f"fetch it with `editmgt download {name}`, or in Python with allow_download=True"
    )


def _is_hub_id(name: str | Path) -> bool:
    """Whether a name can only mean a repository: nothing lies there, nor in its parent folder."""
    if isinstance(name, Path) or not _HUB_ID.fullmatch(name):
        return False
    # No repository's name may hold these.
    if "--" in name or ".." in name or name.endswith((".", "-")):
        return False
    return not os.path.lexists(name) and not os.path.lexists(name.split("/")[0])
