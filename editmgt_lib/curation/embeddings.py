"""Cheap floors for a pair by CLIP and DINO: did it move where its captions say, is it still alike.

They find what went badly wrong and rank nothing: the direction of CLIP hardly agrees with people.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import EditMGTError
from .backends.base import Pixels, lacks, unavailable

DIGITS = 4
CLIP_VALUES, DINO_VALUES = ("clip_direction", "clip_image"), ("dino",)
_WAY = "squash"  # the whole picture; a centre crop may miss the edit


@dataclass(frozen=True)
class Embedder:
    """Measures with the networks there are.

    clip, dino: folders of transformers' CLIP and of DINO v1 or v2; "" for none.
    """

    clip: str = ""
    dino: str = ""
    device: str = "cpu"

    def check(self) -> None:
        """Raise InputError for a folder that is not there."""
        for name, folder in (("clip", self.clip), ("dino", self.dino)):
            if folder and not (Path(folder) / "config.json").is_file():
                raise lacks(
                    f"quality.{name}", f"{folder} with config.json", "give the folder of a model"
                )

    def describe(self) -> dict[str, Any]:
        """Fingerprints of the networks."""
        from ..evaluation.manifest import digest_of_files

        places = {"clip": self.clip, "dino": self.dino}
        return {name: digest_of_files(Path(folder)) if folder else None
                for name, folder in places.items()}  # fmt: skip

    def measure(
        self, before: Pixels, after: Pixels, caption: str, target: str
    ) -> dict[str, float | None]:
        """Values of CLIP_VALUES and DINO_VALUES, None where a network or a caption lacks.

        A result that is its source moves nowhere: direction 0.
        """
        values: dict[str, float | None] = dict.fromkeys((*CLIP_VALUES, *DINO_VALUES))
        if not self.clip and not self.dino:
            return values
        from ..evaluation.metrics.encoders import cosine

        if self.clip:
            pictures = self._clip.encode(_WAY, [before, after])
            values["clip_image"] = round(cosine(*pictures), DIGITS)
            values["clip_direction"] = self._direction(pictures, caption, target)
        if self.dino:
            values["dino"] = round(cosine(*self._dino.encode(_WAY, [before, after])), DIGITS)
        return values

    def _direction(self, pictures: list[Any], caption: str, target: str) -> float | None:
        from ..evaluation.metrics.base import NotApplicable
        from ..evaluation.metrics.similarities import direction

        texts = self._clip.encode("text", [caption, target]) if caption and target else [None]
        if any(text is None for text in texts):  # or it is too long to be read whole
            return None
        try:
            return round(direction(*pictures, *texts), DIGITS)
        except NotApplicable:
            return None

    @cached_property
    def _clip(self) -> Any:
        return self._load(self.clip, {"clip": "clip-vit-l-14"})

    @cached_property
    def _dino(self) -> Any:
        return self._load(self.dino, {"vit": "dino-s-16", "dinov2": "dinov2-b-14"})

    def _load(self, folder: str, kinds: dict[str, str]) -> Any:
        """By the model's type; of each, any size loads alike."""
        from ..checkpoints import read_config
        from ..evaluation.metrics.networks import NETWORKS

        try:
            kind = read_config(Path(folder)).get("model_type")
            if kind not in kinds:
                raise lacks(f"{folder}", f"one of {', '.join(kinds)}", f"its model is {kind!r}")
            return NETWORKS[kinds[kind]].load(Path(folder), self.device)
        except EditMGTError as error:
            raise unavailable("quality", error) from error
