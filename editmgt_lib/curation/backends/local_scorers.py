"""Scorers from local folders: an aesthetic head, classifiers of transformers, YuNet."""

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_number
from ...errors import EditMGTError, InputError
from .base import Answer, Pixels, lacks, unavailable

_HEAD = {"layers.0": 1024, "layers.2": 128, "layers.4": 64, "layers.6": 16, "layers.7": 1}
"""Linear layers of the head and their widths; what lies between them is dropout alone."""


@dataclass(frozen=True)
class AestheticOptions:
    """clip: folder of CLIP ViT-L/14. head: file of LAION's V2 head, .pth or .safetensors."""

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
        _require(self.name, Path(self.options.clip), "config.json")
        _require(self.name, Path(self.options.head))

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
    """Weights and biases of the head for embeddings of a width; runs no code. Raises InputError."""
    import torch
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
        layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in _HEAD]
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise InputError(f"{path} is no aesthetic head: {error}; fetch LAION's V2 head") from error
    for (name, rows), (weight, bias) in zip(_HEAD.items(), layers, strict=True):
        if tuple(weight.shape) != (rows, width) or tuple(bias.shape) != (rows,):
            raise InputError(
                f"{path}: {name} is {tuple(weight.shape)}, expected {(rows, width)}; head and CLIP "
                "do not belong together"
            )
        width = rows
    return [(weight.double().numpy(), bias.double().numpy()) for weight, bias in layers]


@dataclass(frozen=True)
class ClassifierOptions:
    """folder: of an image classifier of transformers. label: whose probability is the score.

    score: what the score is called ("nsfw", "watermark").
    """

    folder: str
    label: str
    score: str
    device: str = "cpu"


class ClassifierScorer:
    """The probability of a label, 0 to 1."""

    def __init__(self, name: str, options: ClassifierOptions) -> None:
        self.name, self.options = name, options
        self.gives, self.revision = (options.score,), Path(options.folder).name

    def check(self) -> None:
        """Raise InputError without the folder, or without the label in its config."""
        from ...checkpoints import read_config

        folder = Path(self.options.folder)
        _require(self.name, folder, "config.json")
        try:
            labels = list(read_config(folder).get("id2label", {}).values())
        except EditMGTError as error:
            raise InputError(str(error)) from error
        if self.options.label not in labels:
            raise InputError(
                f"scorer {self.name!r}: label is {self.options.label!r}; use one of "
                f"{', '.join(map(repr, labels))}"
            )

    def describe(self) -> dict[str, Any]:
        """Fingerprint of the weights, and the label."""
        from ...evaluation.manifest import digest_of_files

        weights = digest_of_files(Path(self.options.folder))
        return {"kind": "classifier", "weights": weights, "label": self.options.label}

    def score(self, pixels: Pixels) -> Answer:
        """See `Scorer`."""
        import torch
        from PIL import Image

        model, processor, index = self._network
        inputs = processor(images=Image.fromarray(pixels), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            shares = model(**inputs).logits.double().softmax(-1)[0]
        return Answer({self.options.score: round(float(shares[index]), 6)})

    @cached_property
    def _network(self) -> tuple[Any, Any, int]:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from ...text.loading import isolated_build

        given = {"local_files_only": True, "trust_remote_code": False}
        try:
            with isolated_build():
                processor = AutoImageProcessor.from_pretrained(self.options.folder, **given)
                model = AutoModelForImageClassification.from_pretrained(
                    self.options.folder, use_safetensors=True, **given
                )
            index = {label: index for index, label in model.config.id2label.items()}
            return model.eval().to(self.options.device), processor, index[self.options.label]
        except Exception as error:  # transformers raises many kinds for a broken folder
            raise unavailable(f"scorer {self.name!r}", error) from error


@dataclass(frozen=True)
class FacesOptions:
    """model: file of YuNet, .onnx. least: confidence of a face, 0 to 1."""

    model: str
    least: float = 0.7

    def __post_init__(self) -> None:
        require_number("least", self.least, 0, 1)


class FaceScorer:
    """Counts faces with YuNet, and the share of the picture under them."""

    gives = ("faces", "face_area")

    def __init__(self, name: str, options: FacesOptions) -> None:
        self.name, self.options = name, options
        self.revision = Path(options.model).name

    def check(self) -> None:
        """Raise InputError without OpenCV or the file."""
        try:
            importlib.import_module("cv2")
        except ImportError as error:
            fix = "pip install opencv-python-headless"
            raise lacks(f"scorer {self.name!r}", f"OpenCV ({error})", fix) from error
        _require(self.name, Path(self.options.model))

    def describe(self) -> dict[str, Any]:
        """Fingerprint of the model."""
        from ...evaluation.manifest import digest_of_files

        weights = digest_of_files(Path(self.options.model))
        return {"kind": "faces", "weights": weights, "least": self.options.least}

    def score(self, pixels: Pixels) -> Answer:
        """See `Scorer`."""
        cv2 = importlib.import_module("cv2")
        height, width = pixels.shape[:2]
        detector = cv2.FaceDetectorYN.create(
            self.options.model, "", (width, height), self.options.least
        )
        _, found = detector.detect(np.ascontiguousarray(pixels[..., ::-1]))  # it wants BGR
        covered = np.zeros((height, width), bool)
        boxes = np.zeros((0, 4)) if found is None else found[:, :4]
        for x, y, w, h in np.rint(boxes).astype(int):
            covered[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        area = round(float(covered.mean()), 6)
        return Answer({"faces": len(boxes), "face_area": area})


def _require(name: str, place: Path, member: str = "") -> None:
    if not (place / member if member else place).is_file():
        what = f"{place}{f' with {member}' if member else ''}"
        raise lacks(f"scorer {name!r}", what, "give the folder or file it was downloaded to")
