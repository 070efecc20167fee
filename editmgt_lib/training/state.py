"""State of a training run: one folder per saved step, complete or not there at all.

A folder holds whole tensors, whatever number of processes wrote it, so any number can go on. It is
written under another name and renamed once its marker, `state.json`, is in it; the marker lists the
digests of all other files. Older folders are deleted after that.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, InputError
from ..files import atomic_write_json, file_digest

STATES = "state"
MARKER = "state.json"
PROGRESS = "progress.json"  # readable by people, and cheaper to check than the state
FORMAT = 1

Groups = Mapping[str, Mapping[str, Tensor]]


def write_state(folder: Path, step: int, groups: Groups, record: Mapping[str, Any]) -> Path:
    """Write whole tensors on the CPU as the state of `step`; returns the new folder.

    record: plain values to keep with it.

    Raises InputError if the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder / STATES / f"step-{step:06d}"
    temporary, old = (final.with_name(f".{final.name}.{kind}") for kind in ("tmp", "old"))
    try:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for group, tensors in groups.items():
            path = temporary / f"{group}.safetensors"
            save_file(_owned(tensors), str(path))
            _flush(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        marker = {"format": FORMAT, "step": step, **record, "files": files}
        atomic_write_json(temporary / MARKER, marker)
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot save the state in {final}: {error}; choose a folder that can be written and "
            "has room"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    return final


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # The format has no tied weights or views.
    return {n: t.detach().contiguous().clone() for n, t in tensors.items()}


def _flush(path: Path) -> None:
    # Without this, a crash of the machine can leave an empty file under the final name.
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def saved_steps(folder: Path) -> dict[int, Path]:
    """Folders of saved states by step, rising; unfinished ones are not among them."""
    found = {}
    for path in (folder / STATES).glob("step-*"):
        if match := re.fullmatch(r"step-(\d+)", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def prune(folder: Path, keep: int, every: int) -> None:
    """Delete all states but the last `keep` and those of steps divisible by `every` (0: none)."""
    states = saved_steps(folder)
    for step in list(states)[:-keep]:
        if not every or step % every:
            shutil.rmtree(states[step], ignore_errors=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read the marker of a state's folder and check all files against it.

    Raises CheckpointError naming what is missing or was changed.
    """
    advice = f"remove {path} to go on from the state before, or to start anew if there is none"
    try:
        record = json.loads((path / MARKER).read_text(encoding="utf-8"))
        files, form = record["files"], record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MARKER} cannot be read ({error}); {advice}") from error
    if form != FORMAT:
        raise CheckpointError(f"{path} has format {form}; this version reads {FORMAT}")
    for name, stated in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {advice}")
        if file.stat().st_size != stated["bytes"]:
            found = f"{file.stat().st_size} bytes instead of {stated['bytes']}"
            raise CheckpointError(f"{file} has {found}; {advice}")
        if file_digest(file) != stated["sha256"]:
            raise CheckpointError(f"{file} has been changed since it was saved; {advice}")
    return record


def read_tensors(path: Path, group: str) -> Iterator[tuple[str, Tensor]]:
    """Read the tensors of a state that `read_record` has checked, one after the other."""
    from safetensors import safe_open

    with safe_open(str(path / f"{group}.safetensors"), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


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
