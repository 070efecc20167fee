"""The Hugging Face Hub: the only module that knows a network.

Nothing here runs unless it is called, and only `download` reaches out. Files come one by one from a
pinned revision, by an allow-list: weights as safetensors, configs and tokenizer files, never code.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, CheckpointError, EditMGTError, InputError
from .hub_errors import explain
from .layout import PARTS, SETTINGS_FILE, check_folder, describe
from .weights import INDEX_SUFFIX, SUFFIX, is_variant

DEFAULT_REPO = "WeiChow/EditMGT"
# A revision that is known to work; other repositories are taken at their main branch.
PINNED = {DEFAULT_REPO: "0a00f14ea159728fb76ac99ed741f9deca5fee28"}
POLL_SECONDS = 0.5

Progress = Callable[[str, int, int], bool | None]
"""(file, bytes done of all files, bytes of all files) -> False to stop, anything else to go on."""

_ALLOWED = re.compile(
    rf"({'|'.join(p.name for p in PARTS)})/\w[\w.\- ]*\.(json|safetensors|txt|model)"
)
_MARKERS = {f"{p.name}/{p.marker}" for p in PARTS}


@dataclass(frozen=True)
class RemoteFile:
    """One file of the repository: its path, bytes, and the checksum the Hub states.

    `sha256` is of the content (large files), `blob_id` git's SHA-1 (small files); either may be
    None.
    """

    path: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


def is_offline() -> bool:
    """Whether the user told huggingface_hub not to use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def folder_for(repo_id: str, local_dir: str | Path | None = None) -> Path:
    """Where `download` puts a repository by convention: one folder of its own in `local_dir`."""
    root = Path(local_dir) if local_dir is not None else Path.home() / ".cache" / "editmgt"
    return Path(os.path.expanduser(root)) / repo_id.replace("/", "--")


def find_downloaded(repo_id: str, local_dir: str | Path | None = None) -> Path | None:
    """The complete folder of a repository downloaded before, or None; never touches the network.

    Looks where `download` puts it, then in the Hub's own cache. Complete means that every part is
    there and no weight file is truncated.
    """
    for folder in (folder_for(repo_id, local_dir), *_in_hub_cache(repo_id)):
        with suppress(EditMGTError):
            if describe(folder).complete:
                return folder
    return None


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
    progress: called in the caller's thread, between files and about twice a second within one.
    Complete files (size and checksum agree) are not fetched again, so after any failure the same
    call goes on; an interrupted file continues in its middle if the installed huggingface_hub can
    do that, else from its start. Config files come last: a folder that has them all is complete.

    Raises InputError when offline, when the repository or revision does not exist or needs a login,
    when the disk lacks room (with the bytes) or cannot be written; CheckpointError when the
    repository is no EditMGT checkpoint or a file arrives with another size; Cancelled when
    `progress` gives False (a file under way may still be completed in the background).
    """
    folder = Path(os.path.expanduser(folder))
    revision = revision or PINNED.get(repo_id, "main")
    if is_offline():
        raise InputError(f"cannot download {repo_id}: offline mode is on; unset HF_HUB_OFFLINE")
    files = wanted_files(_list_files(repo_id, revision), repo_id)
    meter = _Meter(progress, sum(f.size for f in files))
    missing = []
    for file in files:
        meter.show(file.path)
        if is_complete(folder / file.path, file):
            meter.done += file.size
        else:
            missing.append(file)
    _check_room(folder, sum(f.size for f in missing))
    for file in missing:
        meter.show(file.path)
        _fetch(repo_id, revision, file, folder, meter)
        meter.done += file.size
    meter.show(files[-1].path)
    _remove_leftovers(folder)
    return check_folder(folder)


def wanted_files(files: Iterable[RemoteFile], repo_id: str) -> list[RemoteFile]:
    """The files of a listing that make a checkpoint, marker files last.

    Only the six folders' JSON, text, tokenizer and safetensors files, no sub-folders; weight
    variants (fp16) only where a folder has nothing else.
    Raises CheckpointError when a part is missing from the listing.
    """
    allowed = [f for f in files if _ALLOWED.fullmatch(f.path) or f.path == SETTINGS_FILE]
    plain = {_folder(f) for f in allowed if _is_weights(f) and not is_variant(f.path)}
    chosen = [f for f in allowed if not (is_variant(f.path) and _folder(f) in plain)]
    paths = {f.path for f in chosen}
    missing = sorted(_MARKERS - paths)
    missing += [
        f"{p.name}/*{SUFFIX}"
        for p in PARTS
        if p.has_weights and not any(_is_weights(f) and _folder(f) == p.name for f in chosen)
    ]
    if missing and SETTINGS_FILE not in paths:
        raise CheckpointError(
            f"{repo_id} is not an EditMGT checkpoint: it has no {', '.join(missing)}"
        )
    return sorted(chosen, key=lambda f: (f.path in _MARKERS, f.path))


def is_complete(path: Path, file: RemoteFile) -> bool:
    """Whether `path` holds the content of `file`: same size, and same checksum where one is known.

    Reads the whole file to compute it, unless the size already differs.
    """
    try:
        if path.stat().st_size != file.size:
            return False
        if file.sha256:
            return _digest(path, hashlib.sha256()) == file.sha256
        if file.blob_id:
            start = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            return _digest(path, start) == file.blob_id
    except OSError:
        return False
    return True


def _digest(path: Path, checksum: Any) -> str:
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 22):
            checksum.update(chunk)
    return checksum.hexdigest()


def _folder(file: RemoteFile) -> str:
    return file.path.rpartition("/")[0]


def _is_weights(file: RemoteFile) -> bool:
    return file.path.endswith((SUFFIX, INDEX_SUFFIX))


def _in_hub_cache(repo_id: str) -> list[Path]:
    """Snapshots of the repository in huggingface_hub's own cache, complete or not."""
    from huggingface_hub import try_to_load_from_cache

    marker = f"{PARTS[0].name}/{PARTS[0].marker}"
    found = [
        try_to_load_from_cache(repo_id, marker, revision=revision)
        for revision in dict.fromkeys((PINNED.get(repo_id, "main"), "main"))
    ]
    return [Path(path).parent.parent for path in found if isinstance(path, str)]


def _list_files(repo_id: str, revision: str) -> list[RemoteFile]:
    from huggingface_hub import HfApi

    try:
        entries = list(HfApi().list_repo_tree(repo_id, recursive=True, revision=revision))
    except Exception as error:  # the kinds differ between versions and transports
        raise explain(error, repo_id, revision) from error
    # Folders are listed too; they have no size.
    return [_remote_file(e) for e in entries if getattr(e, "size", None) is not None]


def _remote_file(entry: Any) -> RemoteFile:
    large = getattr(entry, "lfs", None)
    if large is not None:
        return RemoteFile(entry.path, entry.size, sha256=getattr(large, "sha256", None))
    return RemoteFile(entry.path, entry.size, blob_id=getattr(entry, "blob_id", None))


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


class _Meter:
    """Bytes done so far, shown to the caller's callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def show(self, name: str, partial: int = 0) -> None:
        """Report `name` with `partial` bytes of it; raises Cancelled when told to stop."""
        if self.progress is None:
            return
        if self.progress(name, min(self.done + partial, self.total), self.total) is False:
            raise Cancelled(
                "the download was stopped; run it again to go on, complete files are kept"
            )


def _fetch(repo_id: str, revision: str, file: RemoteFile, folder: Path, meter: _Meter) -> None:
    """One file, with progress while it comes; raises what `explain` makes of a failure."""
    from huggingface_hub import hf_hub_download

    target = folder / file.path
    # A file that is there but wrong would be trusted by the Hub's own bookkeeping.
    options = {"revision": revision, "local_dir": str(folder), "force_download": target.exists()}
    failure: list[BaseException] = []

    def work() -> None:
        try:
            hf_hub_download(repo_id, file.path, **options)
        except BaseException as error:
            failure.append(error)

    # In a thread of its own, since no version of huggingface_hub can be asked to stop within a
    # file; a daemon, so that Ctrl-C ends the program at once.
    started = time.time()
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(POLL_SECONDS)
        meter.show(file.path, min(_bytes_under_way(folder, started), file.size))
    if failure:
        raise explain(failure[0], repo_id, revision) from failure[0]
    size = target.stat().st_size if target.is_file() else 0
    if size != file.size:
        raise CheckpointError(
            f"{target} arrived with {size:,} bytes, {file.size:,} are expected; download again"
        )


def _bytes_under_way(folder: Path, started: float) -> int:
    """Bytes of the partial file that huggingface_hub is writing now."""
    count = 0
    for path in _partial_files(folder):
        with suppress(OSError):
            stat = path.stat()
            if stat.st_mtime >= started - 1:
                # Blocks, not length: some transports reserve the whole length first.
                count += getattr(stat, "st_blocks", stat.st_size / 512) * 512
    return int(count)


def _remove_leftovers(folder: Path) -> None:
    # A killed program leaves its partial file, gigabytes that recent versions never use again.
    for path in _partial_files(folder):
        with suppress(OSError):
            path.unlink()


def _partial_files(folder: Path) -> list[Path]:
    return list((folder / ".cache" / "huggingface").rglob("*.incomplete"))
