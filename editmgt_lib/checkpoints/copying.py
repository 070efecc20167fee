"""Copying a whole checkpoint with its weights in another number format, to ship it."""

import shutil
from pathlib import Path

import torch

from ..errors import InputError
from ..files import atomic_path
from .layout import PARTS
from .reading import read_state_dict
from .weights import SUFFIX, find_weights


def copy_checkpoint(folder: str | Path, target: str | Path, dtype: torch.dtype) -> Path:
    """Copy a checkpoint folder; floating weights become `dtype`, everything else stays as it is.

    Of a checkpoint whose parts are single files, as small ones are. Gives the target.
    Raises InputError for sharded weights, a target inside the folder or one that exists;
    CheckpointError for a part that is missing or cannot be read.
    """
    from safetensors.torch import save_file

    folder, target = Path(folder).resolve(), Path(target).resolve()
    if target.exists() or target.is_relative_to(folder):
        raise InputError(f"cannot copy to {target}; choose a new folder outside {folder}")
    weights = [find_weights(folder / part.name) for part in PARTS if part.has_weights]
    if sharded := [w.index for w in weights if w.index is not None]:
        raise InputError(f"{sharded[0]}: weights in shards are not copied; use them as they are")
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(f"*{SUFFIX}"))
    for (file,) in (w.files for w in weights):
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in read_state_dict(file).items()
        }
        with atomic_path(target / file.relative_to(folder)) as path:
            save_file(tensors, str(path), metadata={"format": "pt"})
    return target
