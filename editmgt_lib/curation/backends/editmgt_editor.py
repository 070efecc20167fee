"""Our own model as an editor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import require_choice
from ...errors import EditMGTError, InputError
from ..terms import EDITORS, Terms
from .base import Edited, Pixels, Size, unavailable
from .sizes import Sizing, resized

if TYPE_CHECKING:
    from ...pipeline import EditMGT

_FITS = ("pad", "native")


@dataclass(frozen=True)
class EditMGTOptions:
    """model, device, dtype, offload: as of `load`. fit: "pad" or "native".

    negative: prompt; None is the checkpoint's. options: fields of SamplingOptions and
    LocalizationOptions. lora: files, or pairs of file and strength. Raises InputError.
    """

    model: str = "toyworld"
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "none"
    fit: str = _FITS[0]
    negative: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        require_choice("fit", self.fit, _FITS)
        if not isinstance(self.options, Mapping):
            raise InputError(f"options is {self.options!r}; give names and values")
        if "seed" in self.options:
            raise InputError("seed is derived for each row, editor and try; leave it out")


class EditMGTEditor:
    """Takes any size; what no token of changed keeps the source's pixels, bit for bit."""

    sizing = Sizing()

    def __init__(self, name: str, options: EditMGTOptions, terms: Terms | None = None) -> None:
        self.name, self.options = name, options
        known = options.model if options.model in EDITORS else "editmgt"
        self.terms = terms or EDITORS[known]

    @property
    def revision(self) -> str:
        """Fingerprint of the weights."""
        from ...evaluation.manifest import digest_of_files

        return digest_of_files(self._folder)

    def check(self) -> None:
        """Raise InputError for a missing checkpoint or options it cannot take."""
        from ...settings import Settings

        try:
            Settings.read(self._folder).override(**self._given)
        except EditMGTError as error:
            raise InputError(f"editor {self.name!r}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Weights and options."""
        from ...evaluation.manifest import digest_of_files

        options = self.options
        return {
            "kind": "editmgt", "revision": self.revision, "fit": options.fit,
            "negative": options.negative, "options": dict(options.options), "dtype": options.dtype,
            "lora": [[digest_of_files(Path(file)), by] for file, by in map(_pair, options.lora)],
        }  # fmt: skip

    def edit(self, pixels: Pixels, instruction: str, seed: int, size: Size | None = None) -> Edited:
        """See `Editor`."""
        import torch

        image = torch.from_numpy(pixels.copy())[None]
        result = self._model.edit(
            image, instruction, seed=seed, fit_options=self.options.fit,
            negative=self.options.negative, **self._given,
        )  # fmt: skip
        made = (result.image[0] * 255).round().to(torch.uint8).numpy()
        got = (pixels.shape[1], pixels.shape[0])
        facts = {"seed": seed, "size": list(got), "notes": list(result.notes)}
        facts["changed"] = round(float(result.changed.float().mean()), 6)
        return Edited(resized(np.ascontiguousarray(made), size or got), facts)

    @property
    def _given(self) -> dict[str, Any]:
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.options.options.items()
        }

    @property
    def _folder(self) -> Path:
        from ...checkpoints import resolve

        return resolve(self.options.model)

    @cached_property
    def _model(self) -> "EditMGT":
        from ...loader import load

        options = self.options
        lora = [_pair(one) for one in options.lora]
        where = {"device": options.device, "dtype": options.dtype, "offload": options.offload}
        try:
            return load(options.model, lora=lora, **where)
        except EditMGTError as error:
            raise unavailable(f"editor {self.name!r}", error) from error


def _pair(lora: Any) -> tuple[str, float]:
    return (lora, 1.0) if isinstance(lora, str) else (str(lora[0]), float(lora[1]))
