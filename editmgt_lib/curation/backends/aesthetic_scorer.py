"""LAION's aesthetic head on CLIP, from local files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EditMGTError, InputError
from .base import Answer, Pixels, require_file, unavailable

_HEAD = {"layers.0": 1024, "layers.2": 128, "layers.4": 64, "layers.6": 16, "layers.7": 1}
"""Linear layers of the head and their widths; what lies between them is dropout alone."""


@dataclass(frozen=True)
class AestheticOptions:
    """clip: folder of CLIP ViT-L/14. head: LAION's V2 head as safetensors."""

    clip: str
    head: str
    device: str = "cpu"


class AestheticScorer:
    """LAION's aesthetic predictor V2, about 1 to 10; numbers of other heads do not compare."""

    gives = ("aesthetic",)

    def __init__(self, name: str, options: AestheticOptions) -> None:
        self.name, self.options = name, options
        self.revision = "laion-aesthetic-v2"

    def check(self) -> None:
        """Raise InputError without the folder or the file."""
        require_file(f"scorer {self.name!r}", Path(self.options.clip), "config.json")
        require_file(f"scorer {self.name!r}", Path(self.options.head))

    def describe(self) -> dict[str, Any]:
        """Fingerprints of both networks."""
        from ...evaluation.manifest import digest_of_files

        places = Path(self.options.clip), Path(self.options.head)
        return {"kind": "aesthetic", "weights": [digest_of_files(place) for place in places]}

    def score(self, pixels: Pixels) -> Answer:
        """See `Scorer`."""
        encoder, layers = self._networks
        vector = encoder.encode("crop", [pixels])[0].astype(np.float64)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        for weight, bias in layers:
            vector = weight @ vector + bias
        return Answer({"aesthetic": round(float(vector[0]), 4)})

    @cached_property
    def _networks(self) -> tuple[Any, list[tuple[np.ndarray, np.ndarray]]]:
        from ...evaluation.metrics.networks import NETWORKS

        try:
            clip = NETWORKS["clip-vit-l-14"].load(Path(self.options.clip), self.options.device)
            width = clip.model.config.projection_dim
            return clip, read_head(Path(self.options.head), width)
        except EditMGTError as error:
            raise unavailable(f"scorer {self.name!r}", error) from error


def read_head(path: Path, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of the head for embeddings of a width. Raises InputError."""
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        target = path.with_suffix(".safetensors").name
        raise InputError(
            f"{path} is no safetensors file; convert it once: safetensors.torch.save_file("
            f"torch.load({path.name!r}, weights_only=True), {target!r})"
        )
    try:
        state = load_file(path)
        layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in _HEAD]
    except Exception as error:  # many kinds, for a file of another format
        raise InputError(f"{path} is no aesthetic head: {error}; fetch LAION's V2 head") from error
    for (name, rows), (weight, bias) in zip(_HEAD.items(), layers, strict=True):
        if tuple(weight.shape) != (rows, width) or tuple(bias.shape) != (rows,):
            raise InputError(
                f"{path}: {name} is {tuple(weight.shape)}, expected {(rows, width)}; head and CLIP "
                "do not belong together"
            )
        width = rows
    return [(weight.double().numpy(), bias.double().numpy()) for weight, bias in layers]
