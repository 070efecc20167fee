"""State of a training run: one safetensors file, replaced atomically."""

import json
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path, atomic_write_json

STATE = "state.safetensors"
PROGRESS = "progress.json"  # readable by people, and cheaper to check than the state

Groups = dict[str, dict[str, Tensor]]


def write_state(folder: Path, step: int, steps: int, groups: Groups) -> None:
    """Write the tensors of all groups, and the run's progress.

    Raises InputError if the folder cannot be written.
    """
    from safetensors.torch import save_file

    # Cloned: the format has no tied weights or views.
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().contiguous().clone()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    with atomic_path(folder / STATE) as path:
        save_file(tensors, str(path), metadata={"step": str(step)})
    write_progress(folder, step, steps)


def read_state(folder: Path) -> tuple[int, Groups] | None:
    """Read step and groups of tensors; None if no run was saved.

    Raises CheckpointError for any other file.
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
    """Write a run's progress, and whether the checkpoint holds its result."""
    progress = {"step": step, "steps": steps, "exported": exported}
    atomic_write_json(folder / PROGRESS, progress)


def is_done(folder: Path, steps: int) -> bool:
    """Whether the run in `folder` ended after exactly `steps` and was exported."""
    progress = {}
    with suppress(OSError, ValueError):
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return progress == {"step": steps, "steps": steps, "exported": True}
