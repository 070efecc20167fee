"""What a run was computed with, to be kept beside its results."""

import hashlib
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .parallel import World

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "pillow", "einops")


def environment(world: World) -> dict[str, Any]:
    """Versions, devices and number of processes."""
    packages = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "editmgt": __version__,
        "code": code_digest(),
        "python": sys.version.split()[0],
        "packages": packages,
        "platform": platform.platform(),
        "device": device_name(world.device),
        "processes": world.size,
    }


def device_name(device: torch.device) -> str:
    """Name of a GPU, or the kind of processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads"


def code_digest() -> str:
    """Digest of the library's own code, whether or not it lies in a repository."""
    root, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]
