"""The folder layouts of checkpoints: what must be there, and what is."""

import os
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..choices import SCHEDULES
from ..errors import CheckpointError, InputError
from . import packed
from .fp8 import SCALE
from .packed import exists
from .weights import read_config, read_headers

SETTINGS_FILE = "editmgt.json"


@dataclass(frozen=True)
class Part:
    """One folder of the layout; `marker` is the file that shows it is there."""

    name: str
    marker: str
    has_weights: bool
    role: str
    required: bool = True


LANGUAGE_MODEL = Part("llm_encoder", "config.json", True, "Gemma text encoder and its tokenizer")
_SHARED = (
    Part("vqvae", "config.json", True, "image tokenizer"),
    Part("text_encoder", "config.json", True, "CLIP text encoder"),
    Part("tokenizer", "tokenizer_config.json", False, "CLIP tokenizer"),
)
_SCHEDULER = Part("scheduler", "scheduler_config.json", False, "masking schedule", required=False)


@dataclass(frozen=True)
class Layout:
    """The parts of a checkpoint, the transformer first, and settings its files do not state."""

    parts: tuple[Part, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def transformer(self) -> str:
        """Folder of the transformer."""
        return self.parts[0].name

    @property
    def has_language_model(self) -> bool:
        """Whether text rows are Gemma's; they are CLIP's otherwise."""
        return LANGUAGE_MODEL in self.parts


EDITMGT = Layout(
    (Part("editmgt", "config.json", True, "transformer"), *_SHARED, LANGUAGE_MODEL, _SCHEDULER)
)
# The base model that EditMGT was trained from: text to image, CLIP's states as text rows. The
# settings are those of its published scripts, whose negative prompt is EditMGT's.
MEISSONIC = Layout(
    (Part("transformer", "config.json", True, "transformer"), *_SHARED, _SCHEDULER),
    {"text_length": 77, "edits": False, "sampling": {"steps": 64, "guidance": 9.0}},
)
LAYOUTS = (EDITMGT, MEISSONIC)
PARTS = EDITMGT.parts


def choose_layout(files: Container[str]) -> Layout:
    """The layout whose transformer is among `files` (`editmgt/config.json`); EditMGT's if none."""
    found = (one for one in LAYOUTS if f"{one.transformer}/{one.parts[0].marker}" in files)
    return next(found, EDITMGT)


def layout_of(folder: str | Path) -> Layout:
    """The layout of a checkpoint folder or single file, by the folder of its transformer."""
    folder = Path(folder)
    marked = [one for one in LAYOUTS if exists(folder / one.transformer / one.parts[0].marker)]
    incomplete = [one for one in LAYOUTS if os.path.isdir(folder / one.transformer)]
    return next(iter(marked + incomplete), EDITMGT)


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
    dtypes: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    @property
    def file_bytes(self) -> int:
        """Bytes of all files of the part."""
        return sum(self.files.values())


@dataclass(frozen=True)
class FolderReport:
    """A checkpoint folder, part by part."""

    folder: Path
    parts: tuple[PartReport, ...]

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
    """What a checkpoint states about its own use: `editmgt.json`, and the schedule's folder.

    A `masking_schedule` of `scheduler/` is the sampling option `schedule`, unless `editmgt.json`
    says otherwise. What neither states is as the layout has it.

    Raises CheckpointError when a file is broken.
    """
    folder = Path(folder)
    usual = layout_of(folder).settings
    stated = {**usual, **_read_optional(folder, SETTINGS_FILE)}
    schedule = _read_optional(*_scheduler(folder)).get("masking_schedule")
    sampling = stated.get("sampling", {})
    if not isinstance(sampling, dict):  # the settings refuse it
        return stated
    sampling = {**usual.get("sampling", {}), **sampling}
    if schedule is None or "schedule" in sampling:
        return stated | {"sampling": sampling}
    if schedule not in SCHEDULES:
        raise CheckpointError(
            f"{Path(*_scheduler(folder))}: masking_schedule is {schedule!r}; only "
            f"{' and '.join(map(repr, SCHEDULES))} are supported"
        )
    return stated | {"sampling": {"schedule": schedule, **sampling}}


def check_mask_token(folder: str | Path, mask_token_id: int) -> None:
    """Raise CheckpointError if `scheduler/` states another mask token than the transformer has."""
    place = _scheduler(Path(folder))
    stated = _read_optional(*place).get("mask_token_id")
    if stated is not None and stated != mask_token_id:
        raise CheckpointError(
            f"{Path(*place)}: mask_token_id is {stated!r}, but the transformer's is "
            f"{mask_token_id}, the last row of its embedding; use the files of one checkpoint"
        )


def _scheduler(folder: Path) -> tuple[Path, str]:
    return folder / _SCHEDULER.name, _SCHEDULER.marker


def _read_optional(folder: Path, name: str) -> dict[str, Any]:
    return read_config(folder, name) if exists(folder / name) else {}


def check_folder(folder: str | Path) -> Path:
    """Give `folder`, or a packed checkpoint, back if it has the marker file of every needed part.

    Raises InputError when it is neither, CheckpointError naming the parts that are missing and
    the file expected of each.
    """
    folder = require_folder(folder)
    needed = [p for p in layout_of(folder).parts if p.required]
    if folder.is_file():
        there = packed.names(folder)
        missing = [p for p in needed if f"{p.name}/{p.marker}" not in there]
    else:
        try:
            missing = [p for p in needed if not (folder / p.name / p.marker).is_file()]
        except OSError as error:
            raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    if missing:
        raise CheckpointError(_missing_message(folder, missing, len(needed)))
    return folder


def require_folder(folder: str | Path) -> Path:
    """Give `folder` back if it can be listed, or is a safetensors file.

    Raises InputError saying why not.
    """
    folder = Path(folder)
    try:
        if folder.suffix == packed.SUFFIX and folder.is_file():
            return folder
        os.listdir(folder)
        os.stat(os.path.join(folder, "."))  # fails where files inside cannot be opened
    except FileNotFoundError:
        raise InputError(f"there is no folder {folder}; give the folder of a checkpoint") from None
    except NotADirectoryError:
        raise InputError(
            f"{folder} is not a folder; give the folder that holds {PARTS[0].name}/, "
            f"{PARTS[1].name}/ and the other parts, or one {packed.SUFFIX} file of all"
        ) from None
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        raise InputError(
            f"cannot read the folder {folder}: {getattr(error, 'strerror', None) or error}"
        ) from error
    return folder


def describe(folder: str | Path) -> FolderReport:
    """Report what a checkpoint holds without loading it; broken parts are reported too.

    Raises InputError when it is no folder and no safetensors file, CheckpointError when it is such
    a file but not a checkpoint.
    """
    folder = require_folder(folder)
    if folder.is_file():
        packed.names(folder)
    parts = layout_of(folder).parts
    there = [p for p in parts if p.required or exists(folder / p.name / p.marker)]
    return FolderReport(folder, tuple(_describe_part(folder, part) for part in there))


def _describe_part(folder: Path, part: Part) -> PartReport:
    place = folder / part.name
    try:
        files = _sizes(place)
    except (FileNotFoundError, NotADirectoryError):
        problem = f"missing; {part.name}/{part.marker} is expected"
        return PartReport(part, present=False, problem=problem)
    except OSError as error:
        problem = f"cannot read {place}: {error.strerror or error}"
        return PartReport(part, present=True, problem=problem)
    try:
        read_config(place, part.marker)
        headers = read_headers(place) if part.has_weights else {}
    except CheckpointError as error:
        return PartReport(part, present=True, files=files, problem=str(error))
    return PartReport(
        part,
        present=True,
        files=files,
        parameters=sum(
            info.elements
            for name, info in headers.items()
            if info.dtype.startswith(("F", "BF"))
            and not (name.endswith(SCALE) and name.removesuffix(SCALE) in headers)
        ),
        dtypes=dict(Counter(i.dtype for i in headers.values())),
    )


def _sizes(place: Path) -> dict[str, int]:
    """Bytes of a part's files, by name; in a packed checkpoint all weights count as one file."""
    inside = packed.split(place)
    if inside is None:
        return {p.name: p.stat().st_size for p in sorted(place.iterdir()) if p.is_file()}
    file, part = inside
    files = packed.sizes(file, part)
    if not files:
        raise FileNotFoundError(place)
    return files


def _missing_message(folder: Path, missing: list[Part], needed: int) -> str:
    listed = ", ".join(f"{p.name}/{p.marker} ({p.role})" for p in missing)
    message = f"{folder} is not a complete checkpoint: {listed} not found"
    if folder.is_file():
        return f"{message}; convert it again from the complete checkpoint"
    if len(missing) == needed:
        parts = {part for layout in LAYOUTS for part in layout.parts}
        siblings = [p.name for p in parts if (folder.parent / p.name / p.marker).is_file()]
        networks = [layout.transformer for layout in LAYOUTS]
        inside = [d for d in sorted(folder.iterdir()) if any((d / n).is_dir() for n in networks)]
        if len(siblings) > 1:
            return f"{message}; this is one part of a checkpoint, give {folder.parent}"
        if inside:
            return f"{message}; did you mean {inside[0]}?"
    return f"{message}; add them, or download the checkpoint again"
