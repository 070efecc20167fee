"""Taking up a saved state: into tensors of the same names, and in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .parallel import laid_out_like
from .state import read_tensors


def copy_group(path: Path, group: str, into: Mapping[str, Tensor]) -> None:
    """Copy a group of a saved state into tensors of the same names."""
    missing = set(into)
    for name, tensor in read_tensors(path, group):
        if name not in into:
            raise CheckpointError(f"{path} is of another network: surplus {group} {name}")
        if tensor.shape != into[name].shape:
            raise CheckpointError(
                f"{path} is of another network: {group} {name} has shape {list(tensor.shape)}, "
                f"the network {list(into[name].shape)}"
            )
        into[name].copy_(laid_out_like(tensor, into[name]))
        missing.discard(name)
    if missing:
        raise CheckpointError(f"{path} is of another network: missing {group} {some(missing)}")


def some(names: Any) -> str:
    """List the first few names."""
    listed = sorted(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def how_resumed(
    path: Path, record: Mapping[str, Any], layout: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """Say in a sentence how a run goes on."""
    saved = record["layout"]
    other = [f"{k} {saved.get(k)} -> {v}" for k, v in layout.items() if saved.get(k) != v]
    kind = f"elastically, equal but for rounding ({', '.join(other)})" if other else "exactly"
    old = json_like(record["options"])
    changed = [f"{k} {old.get(k)} -> {v}" for k, v in json_like(options).items() if old.get(k) != v]
    note = f"; changed since: {', '.join(changed)}" if changed else ""
    return f"resumed {kind} from {path.name}{note}"


def json_like(value: Any) -> Any:
    """Turn tuples into lists, as JSON does."""
    if isinstance(value, Mapping):
        return {k: json_like(v) for k, v in value.items()}
    return [json_like(v) for v in value] if isinstance(value, (list, tuple)) else value
