"""Where checkpoints are: our own model folder, core's folders, and the shipped toy checkpoint.

A checkpoint NAME is the folder NAME in `models/editmgt`, or any other path registered under that
key. Each of its parts may be in a folder NAME of core's instead: the transformer in
`diffusion_models/NAME/editmgt`, the tokenizer in `vae/NAME/vqvae`, the text encoders in
`text_encoders/NAME`. A base model in Meissonic's layout has its transformer in
`models/editmgt/NAME/transformer`, and no language model. A published checkpoint keeps its Hub name,
OWNER/NAME. A checkpoint may also be one file in `models/editmgt` or in core's `checkpoints`; its
name is then the file's, as core lists it.
"""

import os
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..editmgt_lib.checkpoints.hub import DEFAULT_REPO, find_downloaded, folder_for
from ..editmgt_lib.checkpoints.layout import (
    EDITMGT,
    LAYOUTS,
    MEISSONIC,
    SETTINGS_FILE,
    Layout,
    check_folder,
    describe,
    layout_of,
)
from ..editmgt_lib.checkpoints.names import TOY_FOLDER, TOY_LORA, TOY_NAME
from ..editmgt_lib.checkpoints.packed import SUFFIX, is_packed
from ..editmgt_lib.errors import CheckpointError, InputError

KEY = "editmgt"
DOWNLOAD = " (download)"  # marks the choice of the published checkpoint that fetches it first
EXTENSIONS = {".safetensors", ".sft", ".json"}
# Core's folder for each part that is loaded; the schedule lies beside the settings.
CORE = {
    EDITMGT.transformer: "diffusion_models",
    # Folders of this name in core's diffusion_models are other models'.
    MEISSONIC.transformer: KEY,
    "vqvae": "vae",
    "text_encoder": "text_encoders",
    "tokenizer": "text_encoders",
    "llm_encoder": "text_encoders",
}
MARKERS = {p.name: p.marker for layout in LAYOUTS for p in layout.parts if p.name in CORE}


def register() -> None:
    """Register `models/editmgt`, beside the paths a user already registered under that name."""
    folder_paths.add_model_folder_path(KEY, os.path.join(folder_paths.models_dir, KEY))
    paths, extensions = folder_paths.folder_names_and_paths[KEY]
    # Without extensions ComfyUI would list every file.
    folder_paths.folder_names_and_paths[KEY] = (paths, {*extensions, *EXTENSIONS})


def roots(key: str = KEY) -> list[Path]:
    """All folders registered under a name."""
    return [Path(path) for path in folder_paths.get_folder_paths(key)]


def choices() -> list[str]:
    """Names a user can choose: the toy model, those on disk, the published checkpoint."""
    found = {
        place.parents[1].name
        for part in (layout.transformer for layout in LAYOUTS)
        for root in (*roots(), *roots(CORE[part]))
        for place in root.glob(f"*/{part}/{MARKERS[part]}")
    }
    shown_otherwise = {TOY_NAME, folder_for(DEFAULT_REPO).name}
    return [TOY_NAME, *sorted(found - shown_otherwise), *single_files(), DEFAULT_REPO]


def single_files() -> dict[str, Path]:
    """Checkpoints in one file, by name; `models/editmgt` comes before core's folder."""
    found: dict[str, Path] = {}
    for key in (KEY, "checkpoints"):
        for name in folder_paths.get_filename_list(key):
            path = folder_paths.get_full_path(key, name) if name.endswith(SUFFIX) else None
            if path is not None and _is_checkpoint(path):
                found.setdefault(name, Path(path))
    return found


def _is_checkpoint(path: str) -> bool:
    try:
        file = os.stat(path)
    except OSError:
        return False
    return _header_says_so(path, file.st_mtime_ns, file.st_size)


@lru_cache(maxsize=4096)
def _header_says_so(path: str, time: int, size: int) -> bool:
    return is_packed(path)


def download_folder(name: str) -> Path:
    """Where a download of that Hub name goes: the first registered folder."""
    return folder_for(name, roots()[0])


def locate(name: str) -> dict[str, Path]:
    """The folder of each part that is loaded, and under SETTINGS_FILE that whose settings count.

    Of a checkpoint in one file these lead into the file.

    Raises InputError for an unknown name, CheckpointError that names the parts which are missing.
    """
    if name not in choices():
        raise InputError(f"there is no checkpoint {name!r}; use one of {', '.join(choices())}")
    if file := single_files().get(name):
        return _loaded(layout_of(check_folder(file)), file) | {SETTINGS_FILE: file}
    layout = next((one for one in LAYOUTS if _transformer_home(name, one)), EDITMGT)
    homes = {part: _homes(name, part) for part in _loaded(layout, Path())}
    parts = {part: _having(f"{part}/{MARKERS[part]}", homes[part]) for part in homes}
    if missing := [part for part, home in parts.items() if home is None]:
        places = [download_folder(name)] if "/" in name else [root / name for root in roots()]
        place = next((place for place in places if place.is_dir()), places[0])
        if "/" in name and place.is_dir():  # taken whole or not at all, whatever is there of it
            missing = _faults(place)
        raise CheckpointError(
            f"checkpoint {name!r} lacks {', '.join(missing)}; put them into {place}"
            + (f" or choose {name + DOWNLOAD!r}" if name == DEFAULT_REPO else "")
        )
    found = {part: home / part for part, home in parts.items()}
    network = layout.transformer
    return found | {SETTINGS_FILE: _having(SETTINGS_FILE, homes[network]) or parts[network]}


def _loaded(layout: Layout, folder: Path) -> dict[str, Path]:
    """The parts of a layout that are loaded, by name, in one folder."""
    return {part.name: folder / part.name for part in layout.parts if part.name in CORE}


def _transformer_home(name: str, layout: Layout) -> Path | None:
    part = layout.transformer
    return _having(f"{part}/{MARKERS[part]}", _homes(name, part))


def _homes(name: str, part: str) -> list[Path]:
    """Folders where a part of a checkpoint may be."""
    if name == TOY_NAME:
        return [TOY_FOLDER]
    if "/" in name:
        return [home for root in roots() if (home := find_downloaded(name, root))]
    return [root / name for root in (*roots(), *roots(CORE[part]))]


def _having(marker: str, homes: list[Path]) -> Path | None:
    """The first folder with this file."""
    return next((home for home in homes if (home / marker).is_file()), None)


def _faults(folder: Path) -> list[str]:
    """Parts that are missing from a checkpoint folder, or what is wrong with them."""
    reports = [report for report in describe(folder).parts if report.problem]
    return [f"{r.part.name} ({r.problem})" if r.present else r.part.name for r in reports]


def fingerprint(name: str) -> str:
    """Names, sizes and times of the checkpoint's files; nothing is read."""
    try:
        folders = locate(name)
    except (InputError, CheckpointError) as error:
        return str(error)
    places = [*folders.values(), folders[SETTINGS_FILE] / EDITMGT.parts[-1].name]
    files = {f for place in places if place.is_dir() for f in place.iterdir() if f.is_file()}
    files |= {place for place in places if place.is_file()}
    facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files)]
    return repr(facts)


def loras() -> list[str]:
    """Names of the LoRAs a user can choose; only safetensors, since others can run code."""
    shipped = [TOY_LORA.stem] if TOY_LORA.is_file() else []
    files = folder_paths.get_filename_list("loras")
    return [*shipped, *(n for n in files if n.endswith((SUFFIX, ".sft")))]


def lora_file(name: str) -> Path:
    """The file of a LoRA; InputError if it is gone."""
    if name == TOY_LORA.stem:
        return TOY_LORA
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise InputError(f"there is no LoRA {name!r} in models/loras; choose another file")
    return Path(path)


def lora_fingerprint(name: str) -> str:
    """Size and time of a LoRA file."""
    try:
        facts = lora_file(name).stat()
    except (InputError, OSError) as error:
        return str(error)
    return repr((facts.st_size, facts.st_mtime_ns))
