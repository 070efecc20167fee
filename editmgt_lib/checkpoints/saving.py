"""Writing one network as a folder that `read_state_dict` and `load_module` read back."""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import atomic_path, json_bytes
from .weights import INDEX_SUFFIX, SUFFIX, is_weights_of

SHARD_BYTES = 5 * 2**30


def save_module(
    folder: str | Path,
    module: nn.Module,
    config: Mapping[str, Any],
    *,
    weights_name: str = "model.safetensors",
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write `folder/config.json` and the weights; give the files written.

    weights_name: of the single file. Weights above `max_shard_bytes` become shards of at most that
        size (a larger tensor has a shard of its own) with an index, named after it.
    dtype: for floating tensors; None keeps what the module has.
    Tensors tied in the module are written once. Everything is written under temporary names and
    moved at the end, so a failure leaves what was there before; after success older files of the
    same weights (a single file beside new shards) are removed.

    Raises InputError for a bad name, a tensor without values, a config JSON cannot hold, or a
    folder that cannot be written.
    """
    folder = Path(folder)
    stem = weights_name.removesuffix(SUFFIX)
    if not weights_name.endswith(SUFFIX) or not stem or Path(weights_name).name != weights_name:
        raise InputError(f"weights_name is {weights_name!r}; give a file name ending in {SUFFIX}")
    if max_shard_bytes <= 0:
        raise InputError(f"max_shard_bytes is {max_shard_bytes}; it must be positive")
    tensors = _tensors_to_save(module)
    shards = _split(tensors, dtype, max_shard_bytes)
    names = _shard_names(stem, len(shards))
    texts = {"config.json": json_bytes(dict(config), str(folder / "config.json"))}
    if len(shards) > 1:
        texts[stem + INDEX_SUFFIX] = _index(shards, names, tensors, dtype)
    with ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(atomic_path(folder / name)).write_bytes(text)
        for name, shard in zip(names, shards, strict=True):
            path = stack.enter_context(atomic_path(folder / name))
            _write_shard(path, _prepared({n: tensors[n] for n in shard}, dtype), folder / name)
    _remove_older(folder, stem, {*names, *texts})
    return [folder / name for name in (*texts, *names)]


def _remove_older(folder: Path, stem: str, keep: set[str]) -> None:
    for old in folder.iterdir():
        if is_weights_of(old.name, stem) and old.name not in keep:
            try:
                old.unlink()
            except OSError as error:
                raise InputError(
                    f"cannot remove the older {old}: {error.strerror or error}; delete it, it "
                    "would be taken for the new weights"
                ) from error


def _tensors_to_save(module: nn.Module) -> dict[str, Tensor]:
    """The module's state without the second and later names of tied parameters."""
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
    return tensors


def _prepared(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """On the CPU, contiguous, and each with memory of its own, as the safetensors writer asks."""
    uses = Counter(t.untyped_storage().data_ptr() for t in tensors.values())
    prepared = {}
    for name, tensor in tensors.items():
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        moved = tensor.to(device="cpu", dtype=wanted).contiguous()
        storage = moved.untyped_storage()
        shared = uses[storage.data_ptr()] > 1 or storage.nbytes() != moved.nbytes
        prepared[name] = moved.clone() if shared else moved
    return prepared


def _bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    size = dtype.itemsize if dtype is not None and tensor.is_floating_point() else tensor.itemsize
    return tensor.numel() * size


def _split(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, limit: int) -> list[list[str]]:
    """Names in module order, cut where a shard would exceed `limit` bytes; at least one shard."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = _bytes(tensor, dtype)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [stem + SUFFIX]
    return [f"{stem}-{i:05d}-of-{count:05d}{SUFFIX}" for i in range(1, count + 1)]


def _index(
    shards: list[list[str]],
    names: list[str],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
) -> bytes:
    total = sum(_bytes(tensor, dtype) for tensor in tensors.values())
    place = {n: file for file, shard in zip(names, shards, strict=True) for n in shard}
    value = {"metadata": {"total_size": total}, "weight_map": place}
    return json_bytes(value, "the weight index")


def _write_shard(path: Path, tensors: dict[str, Tensor], target: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # how the writer reports a full disk
        raise InputError(f"cannot write {target}: {error}") from error
