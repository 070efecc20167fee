"""The Hugging Face Hub: the only module that knows a network, beside a judge's endpoint.

Nothing here runs unless it is called, and only `download` reaches out. It fetches by an allow-list
from one commit: weights as safetensors, configs and tokenizer files, never code.
"""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import CheckpointError, EditMGTError, InputError
from .layout import LAYOUTS, SETTINGS_FILE, Layout, check_folder, choose_layout, describe
from .transfer import Meter, Progress, RemoteFile, explain, fetch, fetch_one, is_complete
from .weights import INDEX_SUFFIX, SUFFIX, is_variant

DEFAULT_REPO = "WeiChow/EditMGT"
# A revision that is known to work; other repositories are taken at their main branch.
PINNED = {DEFAULT_REPO: "0a00f14ea159728fb76ac99ed741f9deca5fee28"}

_ALLOWED = re.compile(r"(\w+)/\w[\w.\- ]*\.(json|safetensors|txt|model)")
_NETWORK = re.compile(
    r"config\.json|tokenizer(_config)?\.json|vocab\.json|merges\.txt|special_tokens_map\.json"
    r"|model[\w.\-]*\.safetensors(\.index\.json)?"
)
_MARKERS = {f"{p.name}/{p.marker}" for layout in LAYOUTS for p in layout.parts} | {"config.json"}


def folder_for(repo_id: str, local_dir: str | Path | None = None) -> Path:
    """Where `download` puts a repository by convention: one folder of its own in `local_dir`.

    Raises InputError without `local_dir` where no home folder is known.
    """
    root = os.path.expanduser(local_dir if local_dir is not None else "~/.cache/editmgt")
    if local_dir is None and root.startswith("~"):
        raise InputError(
            f"no home folder is known, so there is no place for {repo_id}; set HOME, or give a "
            "folder (--to, local_dir)"
        )
    return Path(root) / repo_id.replace("/", "--")


def find_downloaded(repo_id: str, local_dir: str | Path | None = None) -> Path | None:
    """The complete folder of a repository downloaded before, or None; never touches the network.

    Looks where `download` puts it, then in the Hub's own cache. Complete means that every part is
    there and no weight file is truncated.
    """
    folders = _in_hub_cache(repo_id)
    with suppress(InputError):  # no home folder
        folders.insert(0, folder_for(repo_id, local_dir))
    for folder in folders:
        with suppress(EditMGTError):
            if describe(folder).complete:
                return folder
    return None


def _in_hub_cache(repo_id: str) -> list[Path]:
    """Snapshots of the repository in huggingface_hub's own cache, complete or not."""
    from huggingface_hub import try_to_load_from_cache

    found = []
    markers = [f"{layout.transformer}/{layout.parts[0].marker}" for layout in LAYOUTS]
    for revision in dict.fromkeys((PINNED.get(repo_id, "main"), "main")):
        with suppress(OSError, ValueError):  # a cache that cannot be read, a name that cannot be
            found += [try_to_load_from_cache(repo_id, m, revision=revision) for m in markers]
    return [Path(path).parent.parent for path in found if isinstance(path, str)]


def is_offline() -> bool:
    """Whether the user told huggingface_hub not to use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(
    repo_id: str = DEFAULT_REPO,
    *,
    folder: str | Path,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a checkpoint into `folder` and give the folder.

    revision: commit, tag or branch; None takes the pinned commit of the published repository and
        `main` of any other.
    progress: called in the caller's thread, several times a second while files come.
    Complete files (size and checksum agree) are not fetched again, so after any failure the same
    call goes on. Config files come last: a folder that has them all is complete. When `progress`
    gives False or raises, the transfer stops at its next chunk; versions of huggingface_hub before
    1.1 notice only between files and finish those under way in the background.

    Raises InputError when offline, when the repository or revision does not exist or needs a login,
    when the disk lacks room (with the bytes) or cannot be written; CheckpointError when the
    repository is no EditMGT checkpoint or a file arrives with other content; Cancelled when
    `progress` gives False.
    """
    folder = Path(os.path.expanduser(folder))
    commit, listing = _list_files(repo_id, revision or PINNED.get(repo_id, "main"))
    _fetch_missing(repo_id, commit, wanted_files(listing, repo_id), folder, progress)
    return check_folder(folder)


def download_network(
    repo_id: str,
    *,
    folder: str | Path,
    revision: str = "main",
    progress: Progress | None = None,
) -> Path:
    """Fetch one network in transformers' layout, such as a CLIP for evaluation; gives the folder.

    Config, tokenizer and safetensors of the repository's top folder, nothing else. Resumes, and
    raises, as `download` does; CheckpointError when the repository has no safetensors weights.
    """
    folder = Path(os.path.expanduser(folder))
    commit, listing = _list_files(repo_id, revision)
    files = [f for f in listing if _NETWORK.fullmatch(f.path) and not is_variant(f.path)]
    if "config.json" not in {f.path for f in files} or not any(map(_is_weights, files)):
        raise CheckpointError(
            f"{repo_id} at {revision} has no config.json with safetensors weights; name a revision "
            "that has them, or convert its weights yourself"
        )
    _fetch_missing(repo_id, commit, files, folder, progress)
    return folder


def _fetch_missing(
    repo_id: str, commit: str, files: list[RemoteFile], folder: Path, progress: Progress | None
) -> None:
    """Bring the files that are not complete yet, configs last."""
    meter = Meter(progress, sum(f.size for f in files))
    missing = [f for f in files if not meter.verified(folder, f)]
    _check_room(folder, sum(f.size for f in missing))
    for last in (False, True):
        if batch := [f for f in missing if (f.path in _MARKERS) == last]:
            fetch(repo_id, commit, batch, folder, meter)
    # Only huggingface_hub's bookkeeping, and the partial files a killed program leaves there.
    shutil.rmtree(folder / ".cache" / "huggingface", ignore_errors=True)


def wanted_files(files: Iterable[RemoteFile], repo_id: str) -> list[RemoteFile]:
    """The files of a listing that make a checkpoint.

    Only the parts' JSON, text, tokenizer and safetensors files, no sub-folders; weight variants
    (fp16) only where a folder has nothing else.
    Raises CheckpointError when a part is missing from the listing.
    """
    files = list(files)
    layout = choose_layout({f.path for f in files})
    allowed = [f for f in files if _belongs(f, layout) or f.path == SETTINGS_FILE]
    plain = {_folder(f) for f in allowed if _is_weights(f) and not is_variant(f.path)}
    chosen = [f for f in allowed if not (is_variant(f.path) and _folder(f) in plain)]
    required = {f"{p.name}/{p.marker}" for p in layout.parts if p.required}
    missing = sorted(required - {f.path for f in chosen})
    missing += [
        f"{p.name}/*{SUFFIX}"
        for p in layout.parts
        if p.has_weights and not any(_is_weights(f) and _folder(f) == p.name for f in chosen)
    ]
    if missing:
        raise CheckpointError(
            f"{repo_id} is not an EditMGT checkpoint: it has no {', '.join(missing)}"
        )
    return sorted(chosen, key=lambda f: f.path)


def _belongs(file: RemoteFile, layout: Layout) -> bool:
    found = _ALLOWED.fullmatch(file.path)
    return found is not None and any(found[1] == part.name for part in layout.parts)


def _folder(file: RemoteFile) -> str:
    return file.path.rpartition("/")[0]


def _is_weights(file: RemoteFile) -> bool:
    return file.path.endswith((SUFFIX, INDEX_SUFFIX))


def list_dataset(repo_id: str, revision: str | None = None) -> tuple[str, list[RemoteFile]]:
    """The commit a revision of a data set stands for (None: `main`), and its files.

    Raises InputError as `download` does.
    """
    if is_offline():
        raise InputError(f"cannot read {repo_id}: offline mode is on; unset HF_HUB_OFFLINE")
    return _list_files(repo_id, revision or "main", "dataset")


def fetch_from_dataset(repo_id: str, commit: str, file: RemoteFile, folder: Path) -> Path:
    """Fetch one file of a data set into `folder`, verified; a complete one is not fetched again.

    Raises InputError, CheckpointError as `download` does.
    """
    path = folder / file.path
    if not is_complete(path, file):
        _check_room(folder, file.size)
        fetch_one(repo_id, commit, file, folder)
    return path


def _list_files(repo_id: str, revision: str, kind: str = "model") -> tuple[str, list[RemoteFile]]:
    """The commit a revision stands for, and its files."""
    from huggingface_hub import HfApi

    if is_offline():
        raise InputError(f"cannot download {repo_id}: offline mode is on; unset HF_HUB_OFFLINE")
    try:
        info = HfApi().repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True)
    except Exception as error:  # the kinds differ between versions and transports
        raise explain(error, repo_id, revision) from error
    files = [
        RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id)
        for s in info.siblings or ()
    ]
    return info.sha or revision, files


def _check_room(folder: Path, needed: int) -> None:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed:,} bytes for the download and {free:,} are free; "
            "free some or choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
