"""Writing one network as a folder that `read_state_dict` and `load_module` read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import atomic_path, json_bytes
from .weights import SUFFIX


def save_module(
    folder: str | Path,
    module: nn.Module,
    config: Mapping[str, Any],
    *,
    weights_name: str = "model.safetensors",
) -> list[Path]:
    """Write `folder/config.json` and the weights; give the files written.

    Tensors tied in the module are written once. Both files are written under temporary names and
    moved at the end, so a failure leaves what was there before.

    Raises InputError for a bad name, a tensor without values, a config JSON cannot hold, or a
    folder that cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if Path(weights_name).name != weights_name or Path(weights_name).suffix != SUFFIX:
        raise InputError(f"weights_name is {weights_name!r}; give a file name ending in {SUFFIX}")
    files = [Path(folder) / "config.json", Path(folder) / weights_name]
    text = json_bytes(dict(config), str(files[0]))
    tensors = _tensors_to_save(module)
    with atomic_path(files[0]) as config_path, atomic_path(files[1]) as weights_path:
        config_path.write_bytes(text)
        try:
            save_file(tensors, str(weights_path), metadata={"format": "pt"})
        except SafetensorError as error:  # how the writer reports a full disk
            raise InputError(f"cannot write {files[1]}: {error}") from error
        weights_path.chmod(config_path.stat().st_mode)  # safetensors lets only its user read them
    return files


def _tensors_to_save(module: nn.Module) -> dict[str, Tensor]:
    """The state on the CPU, each tensor with memory of its own, tied parameters once."""
    first_name: dict[int, str] = {}
    skipped = {
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if first_name.setdefault(id(parameter), name) != name
    }
    tensors = {n: t.detach() for n, t in module.state_dict().items() if n not in skipped}
    empty = [n for n, t in tensors.items() if t.is_meta]
    if empty:
        raise InputError(f"tensor {empty[0]} has no values (meta device); load the module first")
    owners: set[int] = set()
    return {name: _own(tensor.cpu().contiguous(), owners) for name, tensor in tensors.items()}


def _own(tensor: Tensor, owners: set[int]) -> Tensor:
    # The writer refuses tensors that share memory, and would write all of what a view looks into.
    storage = tensor.untyped_storage()
    if storage.nbytes() != tensor.nbytes or storage.data_ptr() in owners:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    owners.add(tensor.untyped_storage().data_ptr())
    return tensor
