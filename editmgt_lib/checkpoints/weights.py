"""The weights and configs of one folder, read strictly and without running anything found in it."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CheckpointError
from .packed import SUFFIX, read_bytes, read_file, split

if TYPE_CHECKING:
    from torch import Tensor

INDEX_SUFFIX = ".safetensors.index.json"
USUAL_STEMS = ("diffusion_pytorch_model", "model")
FOREIGN_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
CONVERT_HINT = (
    "only safetensors is loaded, because other PyTorch files can run code. Convert it once, where "
    "you trust it: load it in PyTorch with weights_only=True and write the tensors with "
    "safetensors.torch.save_file"
)

# Wrappers (torch.compile, FSDP, activation checkpointing) that leave their name in tensor names.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

_VARIANT = re.compile(r"\.(fp16|fp32|bf16|fp8|int8|ema|non_ema)(?=[.-])")
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-\d{5}\.safetensors$")
_INDEX = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")


class TensorInfo(NamedTuple):
    """What a header says of one tensor; `dtype` in safetensors' own words (`BF16`)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Numbers in the tensor."""
        return prod(self.shape)


@dataclass(frozen=True)
class WeightFiles:
    """The files holding one network.

    `place` says which file each tensor belongs to and `index` is the file that says so; both are
    None when the weights are one file.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    place: dict[str, Path] | None = None


def read_headers(source: str | Path) -> dict[str, TensorInfo]:
    """Shape and dtype of every tensor that `read_state_dict` would give; none is read."""
    from safetensors import safe_open

    def infos(file: Path, prefix: str) -> dict[str, TensorInfo]:
        with safe_open(str(file), framework="numpy") as opened:
            names = [n for n in opened.keys() if n.startswith(prefix)]  # noqa: SIM118
            slices = {n.removeprefix(prefix): opened.get_slice(n) for n in names}
        return {n: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}

    return _collect(source, infos)


def read_state_dict(source: str | Path) -> "dict[str, Tensor]":
    """All tensors of a folder's weights, or of one file, on the CPU.

    source: a folder holding `diffusion_pytorch_model.safetensors`, `model.safetensors`, one of
        these in shards with its `.safetensors.index.json`, a single other `*.safetensors`, or only
        a variant such as `model.fp16.safetensors`; or a safetensors file; or an index file; or a
        folder inside a packed checkpoint.
    Names are those of the bare network: what torch.compile, DDP and FSDP put around a module
    (`_orig_mod.`, a leading `module.`) is dropped. The tensors are memory-mapped: pages are read
    when used, and changing a tensor does not change the file.

    Raises CheckpointError for a missing folder, weights in another format, a missing shard, a
    truncated or corrupt file, and an index that contradicts its shards; it names the file.
    """
    import torch
    from safetensors import safe_open

    def tensors(file: Path, prefix: str) -> "dict[str, Tensor]":
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            names = [n for n in opened.keys() if n.startswith(prefix)]  # noqa: SIM118
            return {n.removeprefix(prefix): opened.get_tensor(n) for n in names}

    with torch.device("cpu"):  # older safetensors follow the default device
        return _collect(source, tensors)


def read_config(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in `folder/name`.

    Raises CheckpointError when it is missing, unreadable, not JSON (with its line and column) or
    not an object.
    """
    file = Path(folder) / name
    try:
        value = json.loads(read_bytes(file).decode())
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


def _collect(source: str | Path, read: Callable[[Path, str], dict[str, Any]]) -> dict[str, Any]:
    """Merge what `read` gives of each weight file, checked against the index if there is one.

    read: called with a file and the prefix of the tensors to take, which their names then lack.
    """
    if inside := split(source):
        file, part = inside
        return _unwrapped(read_file(file, lambda path: read(path, f"{part}.")), source)
    weights = find_weights(source)
    merged: dict[str, Any] = {}
    place: dict[str, Path] = {}
    for file in weights.files:
        for name, value in read_file(file, lambda path: read(path, "")).items():
            if name in place:
                raise CheckpointError(f"tensor {name} is in two files, {place[name]} and {file}")
            place[name], merged[name] = file, value
    for name, file in (weights.place or {}).items():
        if place.get(name) != file:
            found = f"it is in {place[name].name}" if name in place else "no shard has it"
            raise CheckpointError(
                f"{weights.index} says tensor {name} is in {file.name}, but {found}; "
                "fetch the index and the shards of one version"
            )
    return _unwrapped(merged, source)


def _unwrapped(tensors: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The tensors under the names they have in the bare network."""
    bare = {n: ".".join(p for p in n.split(".") if p not in WRAPPERS) for n in tensors}
    while bare and all(name.startswith("module.") for name in bare.values()):
        bare = {n: name.removeprefix("module.") for n, name in bare.items()}
    twice = [name for name, count in Counter(bare.values()).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"{source} holds {twice[0]} both wrapped and bare; remove one of them"
        )
    return {bare[name]: tensor for name, tensor in tensors.items()}


def find_weights(source: str | Path) -> WeightFiles:
    """The weights in a folder, or those a file stands for (itself, or its shards if an index).

    In a folder: a usual name (single file, then index), else the only candidate; variants such as
    `model.fp16.safetensors` count only when there is no plain file.

    Raises CheckpointError when there are none (saying what is there instead), when the choice is
    not clear, or when shards are missing.
    """
    source = Path(source)
    try:
        if not source.is_dir():
            return _weights_of_file(source)
        names = sorted(
            p.name for p in source.iterdir() if p.is_file() and not p.name.startswith(".")
        )
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}") from error
    heads = [n for n in names if _stands_for_a_network(n)]
    plain = [n for n in heads if not is_variant(n)]
    if not heads:
        raise CheckpointError(_nothing_found(source, names))
    return _weights_of_file(source / _choose(source, plain or heads))


def is_variant(name: str) -> bool:
    """Whether a file name marks another form of the same weights (`model.fp16.safetensors`)."""
    return _VARIANT.search(name) is not None


def _stands_for_a_network(name: str) -> bool:
    return bool(_INDEX.search(name)) or (name.endswith(SUFFIX) and not _SHARD.match(name))


def _choose(folder: Path, heads: list[str]) -> str:
    for stem in USUAL_STEMS:
        for name in (stem + SUFFIX, stem + INDEX_SUFFIX):
            if name in heads:
                return name
    if len(heads) > 1:
        raise CheckpointError(
            f"{folder} has several weight files: {', '.join(heads[:8])}; keep one, or name the file"
        )
    return heads[0]


def _nothing_found(folder: Path, names: list[str]) -> str:
    shard = next(filter(None, map(_SHARD.match, names)), None)
    if shard:
        index = shard["stem"] + INDEX_SUFFIX
        return f"{folder} has shards ({shard[0]}, ...) but not their index {index}; fetch it too"
    foreign = [n for n in names if n.endswith(FOREIGN_SUFFIXES)]
    if foreign:
        return f"{folder} has {foreign[0]} but no {SUFFIX} file: {CONVERT_HINT}"
    expected = " or ".join(stem + SUFFIX for stem in USUAL_STEMS)
    there = f"it has {', '.join(names[:8])}" if names else "it is empty"
    return f"{folder} has no weights: {expected} is expected, {there}"


def _weights_of_file(file: Path) -> WeightFiles:
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist; give a folder or a {SUFFIX} file")
    if file.suffix in FOREIGN_SUFFIXES:
        raise CheckpointError(f"{file} is not loaded: {CONVERT_HINT}")
    return _read_index(file) if file.suffix == ".json" else WeightFiles((file,))


def _read_index(file: Path) -> WeightFiles:
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        named = {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is not a weight index (a JSON object with a weight_map): {error}"
        ) from error
    if not named:
        raise CheckpointError(f"{file} lists no tensors; fetch it again")
    shards = sorted(set(named.values()))
    for shard in shards:
        # A name with a separator would reach outside the folder.
        if not re.fullmatch(r"\w[\w.\- ]*\.safetensors", shard):
            raise CheckpointError(f"{file} names {shard!r}, not a {SUFFIX} file of its own folder")
    missing = [s for s in shards if not (file.parent / s).is_file()]
    if missing:
        raise CheckpointError(
            f"{file} needs {len(missing)} missing file(s): {', '.join(missing[:8])}; fetch them"
        )
    place = {tensor: file.parent / shard for tensor, shard in named.items()}
    return WeightFiles(tuple(file.parent / s for s in shards), file, place)
