"""Which files in a folder are its weights."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
USUAL_STEMS = ("diffusion_pytorch_model", "model")
FOREIGN_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
CONVERT_HINT = (
    "only safetensors is loaded, because other PyTorch files can run code. Convert it once, where "
    "you trust it: load it in PyTorch with weights_only=True and write the tensors with "
    "safetensors.torch.save_file"
)

_VARIANT = re.compile(r"\.(fp16|fp32|bf16|fp8|int8|ema|non_ema)(?=[.-])")
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-\d{5}\.safetensors$")
_INDEX = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")


@dataclass(frozen=True)
class WeightFiles:
    """The files holding one network.

    `place` says which file each tensor belongs to and `index` is the file that says so; both are
    None when the weights are one file.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    place: dict[str, Path] | None = None


def find_weights(source: str | Path) -> WeightFiles:
    """The weights in a folder, or those a file stands for (itself, or its shards if an index).

    In a folder: a usual name (single file, then index), else the only candidate; variants such as
    `model.fp16.safetensors` count only when there is no plain file.

    Raises CheckpointError when there are none (saying what is there instead), when the choice is
    not clear, or when shards are missing.
    """
    source = Path(source)
    if not source.is_dir():
        return _weights_of_file(source)
    try:
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


def is_weights_of(name: str, stem: str) -> bool:
    """Whether `name` is a single file, shard or index of the weights called `stem`."""
    shard = _SHARD.match(name)
    return name in (stem + SUFFIX, stem + INDEX_SUFFIX) or bool(shard and shard["stem"] == stem)


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
