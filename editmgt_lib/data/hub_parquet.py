"""Parquet files of a data set on the Hugging Face Hub, one at a time on this machine."""

import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from ..checkpoints import hub
from ..errors import InputError
from .fingerprints import digest
from .parquet import ParquetReader, gaps
from .rows import Part, Row, Skipped


class HubReader:
    """Rows of the parquet files of a hub data set, at one commit.

    Each file is fetched when it is read and removed afterwards.

    Args:
        revision: commit, tag or branch; None is `main`. The commit it stands for is `commit`.
        files: pattern that names of files must match, as "data/motion change_*.parquet".
        folder: where fetched files lie meanwhile.
        edits: whether the data set holds pairs.

    Raises:
        InputError: offline, no such data set, no file that matches.
    """

    def __init__(
        self, repo: str, revision: str | None, files: str, folder: Path, edits: bool = True
    ) -> None:
        self.repo, self.edits, self._work = repo, edits, folder
        self.commit, listing = hub.list_dataset(repo, revision)
        self._files = {
            file.path: file
            for file in sorted(listing, key=lambda file: file.path)
            if file.path.endswith(".parquet") and fnmatchcase(file.path, files) and _safe(file.path)
        }
        if not self._files:
            raise InputError(f"{repo} has no parquet file that matches {files!r}; mend the pattern")
        self.parts = tuple(Part(name, 0, None) for name in self._files)
        self.fingerprint = digest("hub", repo, self.commit, list(self._files), edits)
        self.notes = gaps(list(self._files))

    def rows(self, part: Part, start: int = 0, stop: int | None = None) -> Iterator[Row | Skipped]:
        """Rows of a file, fetched for the time they are read."""
        remote = self._files[part.name]
        # Of its own, as another process may be reading another file; what a killed run left there
        # is removed by the next.
        folder = self._work / f".fetched-{digest(part.name)}"
        try:
            path = hub.fetch_from_dataset(self.repo, self.commit, remote, folder)
            local = ParquetReader([path], folder)
            if local.edits != self.edits:
                advice = "leave out --captions" if local.edits else "add --captions"
                raise InputError(
                    f"{part.name} of {self.repo} holds {_held(local.edits)}, not "
                    f"{_held(self.edits)}; {advice} (edits={local.edits})"
                )
            at = 0
            for piece in local.parts:
                end = piece.rows if stop is None else min(piece.rows, stop - at)
                if end > max(0, start - at):
                    yield from local.rows(piece, max(0, start - at), end)
                at += piece.rows
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _held(edits: bool) -> str:
    return "pairs" if edits else "captioned pictures"


def _safe(name: Any) -> bool:
    """Whether a name from the network stays inside a folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
