"""The folder layout of a checkpoint: what must be there, and what is."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError
from .reading import read_config, read_headers

SETTINGS_FILE = "editmgt.json"
# What the published checkpoint, which has no settings file, works at.
DEFAULT_SETTINGS = {"resolution": 1024, "text_length": 256}


@dataclass(frozen=True)
class Part:
    """One folder of the layout; `marker` is the file that shows it is there."""

    name: str
    marker: str
    has_weights: bool
    role: str


PARTS = (
    Part("editmgt", "config.json", True, "transformer"),
    Part("vqvae", "config.json", True, "image tokenizer"),
    Part("text_encoder", "config.json", True, "CLIP text encoder"),
    Part("tokenizer", "tokenizer_config.json", False, "CLIP tokenizer"),
    Part("llm_encoder", "config.json", True, "Gemma text encoder and its tokenizer"),
    Part("scheduler", "scheduler_config.json", False, "masking schedule"),
)


@dataclass(frozen=True)
class PartReport:
    """What one part's folder holds; figures come from headers, no tensor is read.

    `dtypes` counts tensors per safetensors dtype name; `parameters` counts floating numbers.
    `problem` is None, or why the part cannot be used.
    """

    part: Part
    present: bool
    files: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    tensor_bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    @property
    def file_bytes(self) -> int:
        """Bytes of all files of the part."""
        return sum(self.files.values())


@dataclass(frozen=True)
class FolderReport:
    """A checkpoint folder, part by part; `settings` with defaults filled in."""

    folder: Path
    parts: tuple[PartReport, ...]
    settings: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every part is there and readable."""
        return not any(p.problem for p in self.parts)

    @property
    def parameters(self) -> int:
        """Floating numbers in all parts."""
        return sum(p.parameters for p in self.parts)

    @property
    def file_bytes(self) -> int:
        """Bytes of all files of all parts."""
        return sum(p.file_bytes for p in self.parts)


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The pipeline settings of a checkpoint folder: published defaults under its `editmgt.json`.

    Keys: resolution (pixels), text_length (rows), and whatever else the file has, such as default
    sampling and localization options. `parts` names the parts the checkpoint consists of, when
    these are not all six.

    Raises CheckpointError when the file is broken or one of these values cannot be.
    """
    folder = Path(folder)
    stated = read_config(folder, SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else {}
    settings = DEFAULT_SETTINGS | stated
    for key in DEFAULT_SETTINGS:
        if type(settings[key]) is not int or settings[key] < 1:
            raise CheckpointError(
                f"{folder / SETTINGS_FILE}: {key} is {settings[key]!r}; give a positive integer"
            )
    known = [p.name for p in PARTS]
    parts = settings.setdefault("parts", known)
    if not isinstance(parts, list) or not all(p in known for p in parts):
        raise CheckpointError(
            f"{folder / SETTINGS_FILE}: parts is {parts!r}; give a list of {', '.join(known)}"
        )
    return settings


def check_folder(folder: str | Path) -> Path:
    """Give `folder` back if it has every part's marker file.

    Raises InputError when it is no folder, CheckpointError naming the parts that are missing and
    the file expected of each.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a checkpoint")
    names = read_settings(folder)["parts"]
    missing = [p for p in PARTS if p.name in names and not (folder / p.name / p.marker).is_file()]
    if missing:
        raise CheckpointError(_missing_message(folder, missing, len(names)))
    return folder


def describe(folder: str | Path) -> FolderReport:
    """Report what a checkpoint folder holds without loading it; broken parts are reported too.

    Raises InputError when it is no folder, CheckpointError when its settings file is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a checkpoint")
    settings = read_settings(folder)
    parts = tuple(_describe_part(folder, p) for p in PARTS if p.name in settings["parts"])
    return FolderReport(folder, parts, settings)


def _describe_part(folder: Path, part: Part) -> PartReport:
    place = folder / part.name
    if not place.is_dir():
        problem = f"missing; {part.name}/{part.marker} is expected"
        return PartReport(part, present=False, problem=problem)
    files = {p.name: p.stat().st_size for p in sorted(place.iterdir()) if p.is_file()}
    try:
        read_config(place, part.marker)
        headers = read_headers(place) if part.has_weights else {}
    except CheckpointError as error:
        return PartReport(part, present=True, files=files, problem=str(error))
    return PartReport(
        part,
        present=True,
        files=files,
        parameters=sum(i.elements for i in headers.values() if i.dtype.startswith(("F", "BF"))),
        tensor_bytes=sum(i.bytes for i in headers.values()),
        dtypes=dict(Counter(i.dtype for i in headers.values())),
    )


def _missing_message(folder: Path, missing: list[Part], needed: int) -> str:
    listed = ", ".join(f"{p.name}/{p.marker} ({p.role})" for p in missing)
    message = f"{folder} is not a complete checkpoint: {listed} not found"
    if len(missing) == needed:
        siblings = [p.name for p in PARTS if (folder.parent / p.name / p.marker).is_file()]
        inside = [d for d in sorted(folder.iterdir()) if (d / PARTS[0].name).is_dir()]
        if len(siblings) > 1:
            return f"{message}; this is one part of a checkpoint, give {folder.parent}"
        if inside:
            return f"{message}; did you mean {inside[0]}?"
    return f"{message}; add them, or download the checkpoint again"
