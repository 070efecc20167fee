"""Fetching benchmarks from the hub, when asked and from one commit."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints import hub
from ...checkpoints.transfer import RemoteFile
from ...errors import InputError
from ...files import atomic_write_json
from .reading import read_json
from .registry import Repository, find

REVISIONS = "revisions.json"
"""Written beside fetched data: the commit of each repository."""


@dataclass(frozen=True)
class Download:
    """What would be fetched: files of one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    into: str

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


def plan(name: str, revision: str | None = None) -> tuple[Download, ...]:
    """Ask the hub what `fetch` would bring, and how large it is; nothing is fetched.

    revision: in place of the pinned ones.
    Raises InputError where a benchmark is not on the hub, offline, or if the files are not there.
    """
    entry = find(name)
    if not entry.hub:
        raise InputError(
            f"{name} cannot be fetched from the hub; get it yourself ({entry.where}) and name its "
            "folder (--data)"
        )
    return tuple(_listed(repository, revision) for repository in entry.hub)


def _listed(repository: Repository, revision: str | None) -> Download:
    revision = revision or repository.revision
    commit, files = hub.list_dataset(repository.repo, revision)
    chosen = [file for file in files if re.fullmatch(repository.files, file.path)]
    if not chosen:
        raise InputError(
            f"{repository.repo} holds no files {repository.files} at {revision or 'main'}; give "
            "another revision"
        )
    chosen.sort(key=lambda file: file.path)
    return Download(repository.repo, commit, tuple(chosen), repository.into)


def fetch(
    name: str,
    folder: Path,
    revision: str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> tuple[Download, ...]:
    """Bring a benchmark into `folder`; running it again resumes with the files that are missing.

    progress: called with a file's name, and bytes done and in all, after each file.
    Raises InputError as `plan`; CheckpointError for a file that arrives damaged.
    """
    downloads = plan(name, revision)
    total, done = sum(download.bytes for download in downloads), 0
    for download in downloads:
        place = folder / download.into
        for file in download.files:
            hub.fetch_from_dataset(download.repo, download.commit, file, place)
            done += file.size
            if progress is not None:
                progress(file.path, done, total)
        shutil.rmtree(place / ".cache" / "huggingface", ignore_errors=True)
    atomic_write_json(folder / REVISIONS, {d.repo: d.commit for d in downloads})
    return downloads


def revisions(folder: Path) -> dict[str, str]:
    """Commits of fetched data by repository; empty for data that came another way."""
    path = folder / REVISIONS
    return read_json(path, dict) if path.is_file() else {}
