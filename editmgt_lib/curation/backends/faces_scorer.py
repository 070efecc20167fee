"""Faces by YuNet, through OpenCV, from a local file."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_number
from .base import Answer, Pixels, lacks, require_file


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
        require_file(f"scorer {self.name!r}", Path(self.options.model))

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
