"""Weights and configs of one folder, read strictly and without running anything found in it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .headers import TensorInfo, read_header
from .weights import WeightFiles, find_weights

if TYPE_CHECKING:
    from torch import Tensor


def read_headers(source: str | Path) -> dict[str, TensorInfo]:
    """Shape, dtype and bytes of every tensor that `read_state_dict` would give; none is read."""
    by_file = _headers_by_file(find_weights(source))
    return {name: info for infos in by_file.values() for name, info in infos.items()}


def read_state_dict(source: str | Path) -> "dict[str, Tensor]":
    """All tensors of a folder's weights, or of one file, on the CPU.

    source: a folder holding `diffusion_pytorch_model.safetensors`, `model.safetensors`, one of
        these in shards with its `.safetensors.index.json`, a single other `*.safetensors`, or only
        a variant such as `model.fp16.safetensors`; or a safetensors file; or an index file.
    The tensors are memory-mapped: pages are read when used, and changing a tensor does not change
    the file.

    Raises CheckpointError for a missing folder, weights in another format, a missing shard, a
    truncated or corrupt file, and an index that contradicts its shards; it names the file.
    """
    weights = find_weights(source)
    state: dict[str, Tensor] = {}
    for file in _headers_by_file(weights):
        state.update(_load(file))
    return state


def read_config(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in `folder/name`.

    Raises CheckpointError when it is missing, unreadable, not JSON (with its line and column) or
    not an object.
    """
    file = Path(folder) / name
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file} is missing; the folder is incomplete or not a checkpoint"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}; fetch it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a {type(value).__name__}, an object is expected")
    return value


def _headers_by_file(weights: WeightFiles) -> dict[Path, dict[str, TensorInfo]]:
    """Headers of every file, checked against each other and against the index if there is one."""
    headers = {file: read_header(file) for file in weights.files}
    place: dict[str, Path] = {}
    for file, infos in headers.items():
        for name in infos:
            if name in place:
                raise CheckpointError(f"tensor {name} is in two files, {place[name]} and {file}")
            place[name] = file
    for name, file in (weights.place or {}).items():
        if place.get(name) != file:
            found = f"it is in {place[name].name}" if name in place else "no shard has it"
            raise CheckpointError(
                f"{weights.index} says tensor {name} is in {file.name}, but {found}; "
                "fetch the index and the shards of one version"
            )
    return headers


def _load(file: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(file), device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
