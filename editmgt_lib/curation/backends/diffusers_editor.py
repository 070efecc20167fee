"""Any edit pipeline of the installed diffusers, from a local folder."""

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_choice
from ...errors import InputError
from ..terms import EDITORS, Terms
from .base import Edited, NoAnswer, Pixels, Size, lacks, unavailable
from .diffusers_profiles import PROFILES, Profile
from .results import edited
from .sizes import Sizing, place

_OFFLOADS = {
    "none": "",
    "model": "enable_model_cpu_offload",
    "layers": "enable_sequential_cpu_offload",
}
_IMAGE, _PROMPT = ("image", "images"), ("prompt", "instruction")
_INDEX = "model_index.json"


@dataclass(frozen=True)
class DiffusersOptions:
    """folder: in diffusers' layout. options: passed to the pipeline's call as they are.

    device, dtype: as of `load`. offload: "none", "model" or "layers". revision: recorded. sizing:
    in place of what is known of the pipeline. Raises InputError.
    """

    folder: str
    device: str = "auto"
    dtype: str = "bfloat16"
    offload: str = "none"
    revision: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sizing: Sizing | None = None

    def __post_init__(self) -> None:
        require_choice("offload", self.offload, tuple(_OFFLOADS))
        if not isinstance(self.options, Mapping):
            raise InputError(f"options is {self.options!r}; give names and values")
        own = {"generator", "width", "height", "output_type", *_IMAGE, *_PROMPT}
        if taken := own & set(self.options):
            raise InputError(f"option {min(taken)!r} is not free; leave it out")


class DiffusersEditor:
    """A pipeline with a picture and a prompt; nothing in the folder is run as code."""

    def __init__(self, name: str, options: DiffusersOptions, terms: Terms | None = None) -> None:
        self.name, self.options, self._terms = name, options, terms

    @property
    def terms(self) -> Terms:
        """As stated, or as known of the pipeline; else nothing is allowed."""
        return self._terms or EDITORS.get(self._profile.terms, Terms())

    @property
    def sizing(self) -> Sizing:
        """As stated, or as known of the pipeline."""
        return self.options.sizing or self._profile.sizing

    @property
    def revision(self) -> str:
        """As stated, or the pipeline's class and its folder's name."""
        return self.options.revision or f"{self._kind} in {Path(self.options.folder).name}"

    def check(self) -> None:
        """Raise InputError without the folder, the package, the class or an option of its call."""
        self._arguments(self._class)

    def describe(self) -> dict[str, Any]:
        """Pipeline, revision and options."""
        return {
            "kind": "diffusers", "pipeline": self._kind, "revision": self.revision,
            "dtype": self.options.dtype, "options": dict(self.options.options),
        }  # fmt: skip

    def edit(self, pixels: Pixels, instruction: str, seed: int, size: Size | None = None) -> Edited:
        """See `Editor`."""
        import torch
        from PIL import Image

        pipe = self._pipeline
        image, prompt, accepted = self._arguments(type(pipe))
        placed = place((pixels.shape[1], pixels.shape[0]), self.sizing)
        width, height = placed.canvas
        given = {"width": width, "height": height, "generator": torch.Generator().manual_seed(seed)}
        if self._profile.whole:
            given |= {"_auto_resize": False, "max_area": width * height}
        given = {name: value for name, value in given.items() if name in accepted}
        picture = Image.fromarray(placed.put(pixels))
        made = pipe(**{image: picture, prompt: instruction}, **given, **self.options.options)
        facts = {"seed": seed, "seeded": "generator" in given}
        return edited(placed, self._result(made), size, self.name, **facts)

    def _result(self, made: Any) -> Pixels:
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            raise NoAnswer("filtered", f"{self.name}: the safety checker stopped the result")
        pictures = getattr(made, "final_images", None) or made.images
        return np.asarray(pictures[0].convert("RGB"))

    @property
    def _profile(self) -> Profile:
        return PROFILES.get(self._kind, Profile())

    @cached_property
    def _kind(self) -> str:
        """Name of the pipeline's class."""
        place = Path(self.options.folder) / _INDEX
        try:
            kind = json.loads(place.read_text("utf-8"))["_class_name"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"a pipeline in {self.options.folder} ({type(error).__name__}: {error})"
            raise lacks(f"editor {self.name!r}", what, f"give a folder with {_INDEX}") from error
        if not isinstance(kind, str):
            raise InputError(f"{place} names code of its own, which is not run; use another folder")
        return kind

    @property
    def _class(self) -> type:
        who, kind = f"editor {self.name!r}", self._kind
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            raise lacks(who, f"diffusers ({error})", "pip install diffusers") from error
        found = getattr(diffusers, kind, None)
        if found is None:
            version = getattr(diffusers, "__version__", "?")
            fix = "install the version, or its authors' fork, that has it"
            raise lacks(who, f"{kind}: diffusers {version} does not know it", fix)
        return found

    def _arguments(self, kind: type) -> tuple[str, str, set[str]]:
        """Names of picture and prompt, and all that a call accepts. Raises InputError."""
        parameters = inspect.signature(kind.__call__).parameters
        accepted = set(parameters) - {"self"}
        image = next((name for name in _IMAGE if name in accepted), None)
        prompt = next((name for name in _PROMPT if name in accepted), None)
        if image is None or prompt is None:
            raise InputError(
                f"editor {self.name!r}: {kind.__name__} takes no picture with a prompt; use a "
                "pipeline that edits by instruction"
            )
        surplus = sorted(set(self.options.options) - accepted)
        if surplus and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise InputError(
                f"editor {self.name!r}: {kind.__name__} has no option {surplus[0]!r}; it has "
                f"{', '.join(sorted(accepted))}"
            )
        return image, prompt, accepted

    @cached_property
    def _pipeline(self) -> Any:
        from ...loader import choose_device, choose_dtype

        options = self.options
        device = choose_device(options.device)
        try:
            pipe = self._class.from_pretrained(
                options.folder, torch_dtype=choose_dtype(options.dtype, device),
                local_files_only=True, use_safetensors=True,
            )  # fmt: skip
        except (OSError, ValueError, ImportError) as error:
            raise unavailable(f"editor {self.name!r}", error) from error
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(disable=True)
        if options.offload == "none":
            return pipe.to(device)
        getattr(pipe, _OFFLOADS[options.offload])(device=device)
        return pipe
