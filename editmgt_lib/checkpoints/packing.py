"""Writing a checkpoint as one safetensors file, tensor by tensor; `packed` reads it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import require_choice
from ..choices import PACKED_DTYPES
from ..errors import CheckpointError
from ..files import atomic_path
from ..models.config import FLOAT32_WEIGHTS
from . import fp8, packed
from .layout import LANGUAGE_MODEL, LAYOUTS, SETTINGS_FILE, Part, check_folder, layout_of
from .unused import GEMMA_PREFIX, UNUSED_CLIP, unused_gemma
from .weights import INDEX_SUFFIX, read_config, read_state_dict

# In safetensors' words.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CASTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TEXT_SUFFIXES = (".json", ".txt", ".model")
_TRANSFORMERS = {layout.transformer for layout in LAYOUTS}
_PICTURES, _CLIP = "vqvae", "text_encoder"
# The matrices of layers that come many times: nearly all weights.
LAYER_WEIGHT = re.compile(r"(?:^|\.)(?:\w*blocks|layers)\.\d+\..*\.weight")


@dataclass(frozen=True)
class Entry:
    """A tensor to be written; `values` makes it, so that one at a time is in memory."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def pack(
    folder: str | Path,
    target: str | Path,
    dtype: str = "bf16",
    progress: Callable[[str, int, int], object] | None = None,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Path:
    """Write a checkpoint, all parts and settings, as one safetensors file.

    folder: a checkpoint folder, or a file written before.
    dtype: of transformer and text encoders: "keep", "fp32", "bf16", "fp16", or "fp8", which stores
        the matrices of their layers as `fp8` says and the rest in bfloat16. The picture tokenizer
        and the weights in `FLOAT32_WEIGHTS`, which are loaded in float32, stay as they are.
    progress: called with the name, the bytes written and their total.
    change: applied to the transformer's tensors first, to merge LoRAs say.
    Tensors that are never loaded are left out. A failure leaves what was there before.

    Raises InputError for a dtype, a folder that is none and a target that cannot be written;
    CheckpointError for an incomplete checkpoint or a weight without a finite value.
    """
    require_choice("dtype", dtype, PACKED_DTYPES)
    folder, target = check_folder(folder), Path(target)
    entries = [*_files(folder)]
    for part in layout_of(folder).parts:
        if part.has_weights:
            entries += _weights(folder, part.name, dtype, change)
    metadata = {"format": packed.FORMAT, "dtype": dtype}
    if any(entry.name.endswith(f"weight{fp8.SCALE}") for entry in entries):
        metadata["fp8"] = fp8.SCHEME
    write(target, entries, metadata, progress)
    return target


def write(
    target: Path,
    entries: list[Entry],
    metadata: Mapping[str, str],
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Write a safetensors file in which each tensor is made when its turn comes.

    The library's own writer needs all tensors at once. Raises InputError as `atomic_path`.
    """
    entries = sorted(entries, key=lambda e: (-e.dtype.itemsize, e.name))  # aligned, as it has them
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    total = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (total, total := total + entry.bytes),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            values = entry.values().to(entry.dtype).contiguous().flatten()
            stream.write(values.view(torch.uint8).numpy())
            done += entry.bytes
            if progress is not None:
                progress(entry.name, done, total)


def _files(folder: Path) -> Iterator[Entry]:
    """Configs, tokenizers and settings, as bytes."""
    paths = [SETTINGS_FILE] if packed.exists(folder / SETTINGS_FILE) else []
    for part in layout_of(folder).parts:
        with packed.on_disk(folder / part.name) as place:
            paths += [f"{part.name}/{name}" for name in _texts(place, part)]
    for path in paths:
        content = packed.read_bytes(folder / path)
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        yield Entry(packed.FILES + path, torch.uint8, (len(content),), lambda values=values: values)


def _texts(place: Path, part: Part) -> list[str]:
    if not part.required and not (place / part.marker).is_file():
        return []
    files = sorted(p.name for p in place.iterdir() if p.suffix in _TEXT_SUFFIXES and p.is_file())
    return [name for name in files if not name.endswith(INDEX_SUFFIX)]


def _weights(
    folder: Path,
    part: str,
    dtype: str,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
) -> Iterator[Entry]:
    """The weights of a part that are loaded, to be converted."""
    where = folder / part
    tensors = read_state_dict(where)
    if change is not None and part in _TRANSFORMERS:
        tensors = change(tensors)
    state, scales = fp8.split_scales(tensors, str(where))
    unused = _unused(where, part)
    for name, tensor in state.items():
        if any(fnmatchcase(name.removeprefix(GEMMA_PREFIX), pattern) for pattern in unused):
            continue
        kind = _kind(part, name, tensor, dtype)
        yield from _converted(f"{part}.{name}", tensor, scales.get(name), kind)


def _unused(where: Path, part: str) -> tuple[str, ...]:
    if part == LANGUAGE_MODEL.name:
        layers = read_config(where).get("num_hidden_layers")
        if not isinstance(layers, int):
            raise CheckpointError(f"{where / 'config.json'}: num_hidden_layers is {layers!r}")
        return unused_gemma(layers)
    return UNUSED_CLIP if part == _CLIP else ()


def _kind(part: str, name: str, tensor: Tensor, dtype: str) -> torch.dtype | None:
    """The dtype of a tensor in the file; None keeps it."""
    exact = part == _PICTURES or part in _TRANSFORMERS and name in FLOAT32_WEIGHTS
    if not tensor.is_floating_point() or exact or dtype == "keep":
        return None
    if dtype == "fp8":
        large = tensor.ndim == 2 and LAYER_WEIGHT.search(name)
        return torch.float8_e4m3fn if large else torch.bfloat16
    return _CASTS[dtype]


def _converted(
    name: str, tensor: Tensor, scale: Tensor | None, kind: torch.dtype | None
) -> Iterator[Entry]:
    shape = tuple(tensor.shape)
    if scale is not None and kind in (None, torch.float8_e4m3fn):  # as it is
        yield Entry(name, tensor.dtype, shape, lambda: tensor)
        yield Entry(name + fp8.SCALE, scale.dtype, tuple(scale.shape), lambda: scale)
    elif scale is not None:
        yield Entry(name, kind, shape, lambda: fp8.dequantise(tensor, scale))
    elif kind == torch.float8_e4m3fn:
        yield Entry(name, kind, shape, lambda: fp8.quantise(tensor))
        scales = (name + fp8.SCALE, torch.float32, shape[:1])
        yield Entry(*scales, lambda: _finite(fp8.row_scales(tensor), name))
    else:
        yield Entry(name, kind or tensor.dtype, shape, lambda: tensor)


def _finite(scales: Tensor, name: str) -> Tensor:
    if not scales.isfinite().all():
        raise CheckpointError(f"{name} has values that are no finite numbers; fetch it again")
    return scales
