"""A training run on disk: one safetensors file with all it takes to go on, replaced as a whole."""

import json
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path, atomic_write_json

STATE = "state.safetensors"
PROGRESS = "progress.json"  # for people, and to see what is done without reading the state

Groups = dict[str, dict[str, Tensor]]


def write_state(folder: Path, step: int, steps: int, groups: Groups) -> None:
    """Write the tensors of all groups, and how far of `steps` the run is.

    Raises InputError when the folder cannot be written.
    """
    from safetensors.torch import save_file

    # Cloned: tied weights and views share memory, which the format has no place for.
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().contiguous().clone()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    with atomic_path(folder / STATE) as path:
        save_file(tensors, str(path), metadata={"step": str(step)})
    write_progress(folder, step, steps)


def read_state(folder: Path) -> tuple[int, Groups] | None:
    """Step and groups of tensors, as written; None where no run was saved.

    Raises CheckpointError for a file that is no such state.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    if not path.exists():
        return None
    groups: Groups = {}
    try:
        with safe_open(str(path), "pt") as file:
            step = int((file.metadata() or {})["step"])
            for key in file.keys():  # noqa: SIM118
                group, _, name = key.partition(".")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove it to start this stage anew"
        ) from error
    return step, groups


def write_progress(folder: Path, step: int, steps: int, exported: bool = False) -> None:
    """Note how far a run is, and whether the checkpoint holds its result."""
    progress = {"step": step, "steps": steps, "exported": exported}
    atomic_write_json(folder / PROGRESS, progress)


def is_done(folder: Path, steps: int) -> bool:
    """Whether the run in `folder` reached exactly `steps` and was exported."""
    progress = {}
    with suppress(OSError, ValueError):
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return progress == {"step": steps, "steps": steps, "exported": True}
