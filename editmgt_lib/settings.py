"""A checkpoint's own defaults: what its files state, else the published values."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .checkpoints.layout import SETTINGS_FILE, read_settings
from .checks import require_choice, require_number
from .choices import TIMES
from .errors import CheckpointError, InputError
from .localization.maps import Localization, LocalizationOptions
from .sampling.options import SamplingOptions
from .text.instruction import DEFAULT_NEGATIVE

_KINDS = {"sampling": SamplingOptions, "localization": LocalizationOptions}
# Options that older files hold and this version no longer has, with the values it always uses.
_FIXED = {"localization": {"filter_strength": 1.0, "preserve_peaks": True}}


@dataclass(frozen=True)
class Settings:
    """The defaults a checkpoint comes with.

    Attributes:
        resolution: side of the square canvas in pixels. text_length: text rows.
        edits: whether it was trained to follow a picture; text to image works either way.
        negative: negative prompt used unless another is given.
        sampling, localization: default options.
        max_reconstruction_error: mean absolute error, 0..1, up to which the tokenizer reproduces
            the pictures it was trained on; a picture beyond that gets a note. None: no limit.
        trained_time: the time input it was trained with, "step" or "ratio" (published); None: not
            stated. A record, which sampling does not read.
    """

    resolution: int = 1024
    text_length: int = 256
    negative: str = DEFAULT_NEGATIVE
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    max_reconstruction_error: float | None = None
    trained_time: str | None = None
    edits: bool = True

    def __post_init__(self) -> None:
        if self.max_reconstruction_error is not None:
            require_number("max_reconstruction_error", self.max_reconstruction_error, 0, 1)
        require_number("resolution", self.resolution, 1, whole=True)
        require_number("text_length", self.text_length, 1, whole=True)
        if self.trained_time is not None:
            require_choice("trained_time", self.trained_time, TIMES)
        if not isinstance(self.edits, bool):
            raise InputError(f"edits is {self.edits!r}; use true or false")
        if not isinstance(self.negative, str):
            raise InputError(f"negative is {self.negative!r}; use a string")

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Read `editmgt.json` and `scheduler/`; what they leave out is as published.

        Raises:
            CheckpointError: an invalid value or an unknown name.
        """
        stated = read_settings(folder)
        where = folder / SETTINGS_FILE
        surplus = sorted(set(stated) - {f.name for f in fields(cls)})
        if surplus:
            raise CheckpointError(f"{where}: unknown settings {', '.join(surplus)}")
        try:
            for name, kind in _KINDS.items():
                stated[name] = _options(name, kind, stated.get(name, {}))
            return cls(**stated)
        except (InputError, TypeError) as error:
            raise CheckpointError(f"{where}: {error}") from error

    def based_on(
        self,
        sampling: SamplingOptions | None = None,
        localization: LocalizationOptions | None = None,
    ) -> "Settings":
        """These settings with whole sets of options in place of their own."""
        return replace(
            self,
            sampling=sampling or self.sampling,
            localization=localization or self.localization,
        )

    def override(self, **values: Any) -> "Settings":
        """Replace single sampling and localization options.

        Args:
            values: fields of `SamplingOptions` and `LocalizationOptions`; None changes nothing.

        Raises:
            InputError: an unknown name or an invalid value.
        """
        values = {name: value for name, value in values.items() if value is not None}
        changed = {}
        for name, kind in _KINDS.items():
            own = {f.name: values.pop(f.name) for f in fields(kind) if f.name in values}
            changed[name] = replace(getattr(self, name), **own)
        if values:
            known = [f.name for kind in _KINDS.values() for f in fields(kind)]
            raise InputError(f"unknown option {', '.join(values)}; use one of {', '.join(known)}")
        return replace(self, **changed)

    def of_call(
        self,
        sampling: SamplingOptions | None,
        localization: Localization | LocalizationOptions | None,
        **values: Any,
    ) -> tuple[SamplingOptions, Localization | LocalizationOptions | None]:
        """What `EditMGT.sample` takes for whole sets of options and single values over them.

        A map stays, and None stands for these settings' own options.
        """
        ready = isinstance(localization, Localization)
        chosen = self.based_on(sampling, None if ready else localization).override(**values)
        if not ready and (localization or chosen.localization != self.localization):
            localization = chosen.localization
        return chosen.sampling, localization

    def to_dict(self) -> dict[str, Any]:
        """The content of `editmgt.json`."""
        return asdict(self)


def _options(name: str, kind: type, values: Mapping[str, Any]) -> Any:
    """Build options from JSON, lists becoming tuples."""
    if not isinstance(values, Mapping):
        raise InputError(f"{name} is {values!r}; use a JSON object of options")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for option, fixed in _FIXED.get(name, {}).items():
        if (stated := values.pop(option, fixed)) != fixed:
            warnings.warn(
                f"{SETTINGS_FILE}: {name}.{option} is {stated!r}; this version always uses {fixed}",
                stacklevel=2,
            )
    return kind(**values)
