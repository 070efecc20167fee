"""LoRA files: one form is written, those of other programs are read too.

Written: `transformer.<layer>.lora_A.weight` and `.lora_B.weight`, as diffusers has it, with an
`.alpha` beside them, and metadata for both kinds of reader. Read: any prefix and pair of endings
below, hence diffusers, peft, kohya, ai-toolkit and the official EditMGT script.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, InputError
from ..files import atomic_write_bytes
from .weights import SUFFIX, WRAPPERS, find_weights, read_config, read_state_dict

PREFIX = "transformer."
OURS = "editmgt_lora"  # key of the header that holds our metadata
OFFICIAL_PREFIX = "unet."  # the official script saves by Stable Diffusion's writer
USUAL_NAMES = ("pytorch_lora_weights" + SUFFIX, "adapter_model" + SUFFIX)
CONFIGS = ("lora_config.json", "adapter_config.json")  # the official script's, peft's

_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", PREFIX, OFFICIAL_PREFIX,
    "lora_unet_", "lora_transformer_", "module.", *(f"{wrapper}." for wrapper in WRAPPERS),
)  # fmt: skip
_DOWN = r"lora_A(\.default)?\.weight|lora_A|lora_down\.weight|lora\.down\.weight"
_UP = r"lora_B(\.default)?\.weight|lora_B|lora_up\.weight|lora\.up\.weight"
_KEY = re.compile(rf"(?P<name>.+)\.((?P<down>{_DOWN})|(?P<up>{_UP})|(?P<alpha>alpha))")


@dataclass(frozen=True, eq=False, repr=False)
class LoraFile:
    """What a file holds.

    Attributes:
        layers: down [rank, in], up [out, rank] and alpha by layer, whose name may have
            underscores for dots.
        scope: what the file says; None if it does not.
        metadata: ours, or the file's header as it is.
        notes: what was missing and assumed.
    """

    layers: dict[str, tuple[Tensor, Tensor, float]]
    scope: str | None
    metadata: dict[str, Any]
    notes: tuple[str, ...]


def read_lora(path: str | Path) -> LoraFile:
    """Read a LoRA file, or the folder that a training script wrote one to.

    Raises InputError when there is no file; CheckpointError, listing the keys, for one that holds
    anything but LoRA of linear layers, and for pairs that do not fit.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / n for n in USUAL_NAMES if (path / n).is_file()), path)
    if not path.exists():
        raise InputError(f"there is no LoRA file {path}; give a {SUFFIX} file")
    file = find_weights(path).files[0]
    header = _header(file)
    tensors = read_state_dict(file)
    downs, ups, alphas = _sorted(tensors, file)
    config, source = _config(file, header)
    layers, unknown = {}, []
    for name, down in downs.items():
        alpha = float(alphas[name]) if name in alphas else 0.0
        if alpha == 0:  # as kohya's own reader takes it
            alpha = _alpha(name, down.shape[0], config)
        if alpha is None:
            alpha = float(down.shape[0])
            unknown.append(name)
        layers[name] = down, ups[name], alpha
    notes = []
    if unknown:
        notes.append(
            f"{file.name} has no alpha for {len(unknown)} of {len(layers)} layers; taken as the "
            f"rank. If it was trained with another, multiply the strength by alpha / rank, or put "
            f"the training's {CONFIGS[0]} beside the file"
        )
    elif not alphas and source:
        notes.append(f"{file.name} has no alpha; taken from {source}")
    own = _object(header.get(OURS))
    scope = own.get("scope")
    if scope is None and all(key.startswith(OFFICIAL_PREFIX) for key in tensors):
        scope = "reference"
        notes.append(
            f"{file.name} is of the official script, which trains on the reference's tokens alone; "
            "scope is reference"
        )
    return LoraFile(layers, scope, own or header, tuple(notes))


def write_lora(
    path: str | Path,
    layers: Mapping[str, tuple[Tensor, Tensor, float]],
    scope: str,
    metadata: Mapping[str, Any],
) -> Path:
    """Write a LoRA file; layers: as in `LoraFile`, under their names in the network.

    metadata: plain values; `title`, `date`, `license`, `trigger` and `resolution` also go into the
    ModelSpec fields that other programs show. Raises InputError for another suffix, or if it cannot
    be written.
    """
    import torch
    from safetensors.torch import save

    if Path(path).suffix != SUFFIX:
        raise InputError(f"cannot write {path}: LoRA files end in {SUFFIX}")
    tensors: dict[str, Tensor] = {}
    for name, (down, up, alpha) in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up
        tensors[f"{PREFIX}{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32, device="cpu")
    tensors = {key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}
    ours = {**metadata, "scope": scope}
    header = {"format": "pt", OURS: json.dumps(ours), **_for_diffusers(layers), **_spec(ours, path)}
    return atomic_write_bytes(path, save(tensors, header))


def _for_diffusers(layers: Mapping[str, tuple[Tensor, Tensor, float]]) -> dict[str, str]:
    """Rank and alpha of every layer as peft's LoraConfig has them, for diffusers' loader."""
    ranks = {name: down.shape[0] for name, (down, _, _) in layers.items()}
    alphas = {name: alpha for name, (_, _, alpha) in layers.items()}
    first = next(iter(layers))
    config = {
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {n: r for n, r in ranks.items() if r != ranks[first]},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alphas[first]},
        "target_modules": sorted(layers),
    }
    text = json.dumps({PREFIX + key: value for key, value in config.items()}, sort_keys=True)
    return {"lora_adapter_metadata": text}


def _spec(metadata: Mapping[str, Any], path: str | Path) -> dict[str, str]:
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": "editmgt/lora",
        "implementation": "diffusers",
        "title": metadata.get("title", Path(path).stem),
        "date": metadata.get("date", date.today().isoformat()),
        "license": metadata.get("license"),
        "trigger_phrase": metadata.get("trigger"),
        "resolution": metadata.get("resolution"),
    }
    return {f"modelspec.{k}": str(v) for k, v in values.items() if v is not None}


def _header(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no safetensors file: {error}; fetch it again") from error


def _sorted(
    tensors: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Down, up and alpha by layer."""
    kinds: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    foreign = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        kind = next((k for k in kinds if match and match[k]), None)
        if kind is None or kind != "alpha" and tensor.ndim != 2:
            foreign.append(f"{key} {list(tensor.shape)}")
            continue
        name = _bare(match["name"])
        if name in kinds[kind]:
            foreign.append(f"{key}: a second one of {name}")
        if not tensor.isfinite().all():
            foreign.append(f"{key}: values that are no finite numbers")
        kinds[kind][name] = tensor
    downs, ups, alphas = kinds.values()
    foreign += [f"{name}: one half of a pair" for name in sorted(downs.keys() ^ ups.keys())]
    foreign += [f"{name}: only an alpha" for name in sorted(alphas.keys() - downs.keys())]
    if foreign or not downs:
        raise CheckpointError(
            f"{file} is no LoRA of linear layers (DoRA, LoKr, LoHa and convolutions are not "
            "supported)" + listing("not understood", foreign)
        )
    wrong = [
        f"{name}: down {list(down.shape)}, up {list(ups[name].shape)}"
        for name, down in downs.items()
        if down.shape[0] != ups[name].shape[1]
    ]
    if wrong:
        raise CheckpointError(f"{file} contradicts itself" + listing("different ranks", wrong))
    return downs, ups, alphas


def listing(title: str, entries: list[str], most: int = 12) -> str:
    """The first entries of a list, one a line, for the end of a message."""
    more = [f"and {len(entries) - most} more"] if len(entries) > most else []
    lines = "".join(f"\n  {entry}" for entry in [*entries[:most], *more])
    return f"\n{title} ({len(entries)}):{lines}" if entries else ""


def _bare(name: str) -> str:
    """A layer's name without what programs and wrappers put before it."""
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _config(file: Path, header: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Rank and alpha as said for all layers at once, in peft's words, and where."""
    return next(_configs(file, header), ({}, ""))


def _configs(file: Path, header: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    if described := _object(header.get("lora_adapter_metadata")):
        yield {k.removeprefix(PREFIX): v for k, v in described.items()}, "its metadata"
    if "ss_network_alpha" in header:
        yield {"lora_alpha": header["ss_network_alpha"]}, "its metadata"
    names = [file.stem + ".json", *(CONFIGS if file.name in USUAL_NAMES else ())]
    for name in names:
        if (file.parent / name).is_file():
            values = read_config(file.parent, name)
            if "lora_alpha" in values:
                yield values, name


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _alpha(name: str, rank: int, config: Mapping[str, Any]) -> float | None:
    """A layer's alpha as a config says; for rank-stabilised LoRA one of the same effect."""
    patterns = config.get("alpha_pattern") or {}
    found = next((v for k, v in patterns.items() if _fits(name, k)), config.get("lora_alpha"))
    try:
        alpha = float(found)
    except (TypeError, ValueError):
        return None
    return alpha * sqrt(rank) if config.get("use_rslora") else alpha


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, f"*.{pattern.lstrip('^')}")
