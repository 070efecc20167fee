"""An image classifier of transformers, from a local folder: suitability, watermarks."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import EditMGTError, InputError
from .base import Answer, Pixels, require_file, unavailable


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
        require_file(f"scorer {self.name!r}", folder, "config.json")
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
