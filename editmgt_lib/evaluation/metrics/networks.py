"""The networks that metrics use, by name, from folders on this machine.

A folder of networks holds one folder for each, named as here: config.json, safetensors weights
and, for CLIP, the tokenizer's files; LPIPS backbones need the weights alone. Nothing is downloaded
unless `checkpoints.hub.download_network` is called.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...checkpoints import load_module, read_config, read_state_dict
from ...checkpoints.weights import find_weights
from ...errors import CheckpointError, InputError
from ...text.loading import isolated_build, load_tokenizer
from .encoders import ClipEncoder, DinoEncoder
from .perceptual import Lpips, read_heads

Device = torch.device | str


@dataclass(frozen=True)
class Network:
    """repo: where the weights are published; "" if in no form that can be read directly."""

    name: str
    meaning: str
    load: Callable[[Path, Device], Any]
    repo: str = ""


def load_networks(root: str | Path, names: Iterable[str], device: Device = "cpu") -> dict[str, Any]:
    """Load networks by name from their folders in `root`.

    Raises InputError for an unknown name and for folders that are missing, all at once;
    CheckpointError for a broken one.
    """
    names = tuple(dict.fromkeys(names))
    if unknown := [name for name in names if name not in NETWORKS]:
        raise InputError(f"there is no network {unknown[0]!r}; use one of {', '.join(NETWORKS)}")
    places = {name: Path(root) / name for name in names}
    if missing := [name for name, place in places.items() if not place.is_dir()]:
        raise InputError(
            f"{root} lacks {', '.join(missing)}; put each into a folder of that name "
            f"({'; '.join(_source(name) for name in missing)})"
        )
    return {name: NETWORKS[name].load(place, device) for name, place in places.items()}


def _source(name: str) -> str:
    network = NETWORKS[name]
    return f"{name}: {network.repo or network.meaning}"


def _load_clip(folder: Path, device: Device) -> ClipEncoder:
    model = _pretrained("CLIPModel", folder, device, "clip")
    return ClipEncoder(model, load_tokenizer(folder))


def _load_dino(folder: Path, device: Device) -> DinoEncoder:
    return DinoEncoder(_pretrained("ViTModel", folder, device, "vit", add_pooling_layer=False))


def _load_dinov2(folder: Path, device: Device) -> DinoEncoder:
    return DinoEncoder(_pretrained("Dinov2Model", folder, device, "dinov2"))


def _pretrained(
    kind: str, folder: Path, device: Device, model_type: str, **options: Any
) -> torch.nn.Module:
    """A network of transformers, float32, all its weights from the folder's safetensors."""
    import transformers

    if (found := read_config(folder).get("model_type")) != model_type:
        raise CheckpointError(f"{folder}: model_type is {found!r}, expected {model_type!r}")
    find_weights(folder)  # says it when they are missing, or in a format that can run code
    try:
        with isolated_build(), _no_progress_bars():
            model, report = getattr(transformers, kind).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise CheckpointError(f"the network in {folder} cannot be read: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {', '.join(missing[:8])}; fetch it again")
    return model.to(device, torch.float32)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_lpips(backbone: str, folder: Path, device: Device) -> Lpips:
    heads = read_heads(backbone)
    network = load_module(
        partial(Lpips, backbone),
        read_state_dict(folder),
        device=device,
        dtype=torch.float32,
        ignore=("classifier.*",),
        where=str(folder),
    )
    network.heads = [head.to(device) for head in heads]
    return network


NETWORKS = {
    network.name: network
    for network in (
        Network("clip-vit-b-32", "CLIP ViT-B/32", _load_clip, "openai/clip-vit-base-patch32"),
        Network("clip-vit-l-14", "CLIP ViT-L/14", _load_clip, "openai/clip-vit-large-patch14"),
        Network("dino-s-16", "DINO v1 ViT-S/16", _load_dino, "facebook/dino-vits16"),
        Network("dino-b-8", "DINO v1 ViT-B/8", _load_dino, "facebook/dino-vitb8"),
        Network("dinov2-b-14", "DINOv2 ViT-B/14", _load_dinov2, "facebook/dinov2-base"),
        Network("lpips-alex", "torchvision's AlexNet", partial(_load_lpips, "alex")),
        Network("lpips-squeeze", "torchvision's SqueezeNet 1.1", partial(_load_lpips, "squeeze")),
    )
}
