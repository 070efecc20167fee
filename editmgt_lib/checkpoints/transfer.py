"""One transfer from the Hub: progress, stopping, checksums, and errors in plain words."""

import errno
import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, CheckpointError, EditMGTError, InputError
from ..files import file_digest

POLL_SECONDS = 0.2
STOP_SECONDS = 2.0  # how long a stopped transfer may take to notice

Progress = Callable[[str, int, int], bool | None]
"""(what is done, bytes done, bytes of all files) -> False to stop, anything else to go on."""

# Errors are told by the names of their classes: the libraries under huggingface_hub changed between
# its versions.
_UNREACHABLE = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "ConnectionError",
    "ChunkedEncodingError",
    "Timeout",
    "TimeoutError",
    "TimeoutException",
    "TransportError",
}


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


def is_complete(path: Path, file: RemoteFile) -> bool:
    """Whether `path` holds the content of `file`: same size, and same checksum where one is known.

    Reads the whole file to compute it, unless the size already differs.
    """
    try:
        if path.stat().st_size != file.size:
            return False
        if file.sha256:
            return file_digest(path) == file.sha256
        if file.blob_id:
            start = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            return file_digest(path, start) == file.blob_id
    except OSError:
        return False
    return True


class Meter:
    """Bytes done so far, shown to the caller's callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done, self.shown = progress, total, 0, 0

    def show(self, name: str, partial: int = 0) -> None:
        """Report `partial` bytes beyond those done; raises Cancelled when told to stop."""
        self.shown = min(max(self.shown, self.done + partial), self.total)
        if self.progress is not None and self.progress(name, self.shown, self.total) is False:
            raise Cancelled(
                "the download was stopped; run it again to go on, complete files are kept"
            )

    def verified(self, folder: Path, file: RemoteFile) -> bool:
        """Whether a file is there and complete; its bytes then count as done."""
        self.show(file.path)
        complete = is_complete(folder / file.path, file)
        self.done += file.size * complete
        self.show(file.path)
        return complete


class _Transfer:
    """A running `snapshot_download`: its byte counts, and the way to stop it.

    huggingface_hub makes its progress bars of the class it is given and updates them from its
    threads, with every chunk (before 1.1: with every file). What a bar raises ends the download.
    """

    def __init__(self) -> None:
        self.bars: list[Any] = []
        self.stopped = False

    @property
    def bytes(self) -> int:
        """Bytes that came so far; more than one bar counts them."""
        return int(max((bar.n for bar in self.bars if bar.counts_bytes), default=0))

    def stop(self) -> None:
        """End the download at its next chunk."""
        # A transfer by hf_xet goes on whatever a bar raises, so it is aborted as on Ctrl-C, for the
        # whole process. Versions without the function finish the file under way.
        with suppress(ImportError):
            from huggingface_hub.utils._xet import abort_xet_session

            abort_xet_session()
        self.stopped = True

    def bar_class(self) -> type:
        """The class of the bars, which draw nothing."""
        from tqdm import tqdm

        transfer = self

        class Bar(tqdm):
            def __init__(self, *args: Any, total: Any = None, unit: str = "", **_: Any) -> None:
                super().__init__(*args, total=total, disable=True)
                self.counts_bytes = unit == "B"
                transfer.bars.append(self)

            def update(self, n: float | None = 1) -> None:
                if transfer.stopped:
                    raise Cancelled("the download was stopped")
                self.n += n or 0

            def __iter__(self) -> Any:
                for item in self.iterable:
                    yield item
                    self.update()

        return Bar


def fetch(repo_id: str, commit: str, files: list[RemoteFile], folder: Path, meter: Meter) -> None:
    """Bring files into `folder` and check them; raises what `explain` makes of a failure."""
    from huggingface_hub import snapshot_download

    transfer, failure = _Transfer(), []
    options = {"revision": commit, "allow_patterns": [f.path for f in files]}

    def work() -> None:
        try:
            for file in files:  # one that is there but wrong could be trusted by its record
                (folder / file.path).unlink(missing_ok=True)
            snapshot_download(
                repo_id, local_dir=str(folder), tqdm_class=transfer.bar_class(), **options
            )
        except BaseException as error:
            failure.append(error)

    # In a thread, so that the callback runs in the caller's, also while the network is silent.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(POLL_SECONDS)
            there = [f for f in files if (folder / f.path).exists()]
            under_way = next((f for f in files if f not in there), files[-1])
            meter.show(under_way.path, max(transfer.bytes, sum(f.size for f in there)))
    except BaseException:
        transfer.stop()
        worker.join(STOP_SECONDS)
        raise
    if failure:
        raise explain(failure[0], repo_id, commit) from failure[0]
    for file in files:
        if not meter.verified(folder, file):
            (folder / file.path).unlink(missing_ok=True)
            raise CheckpointError(
                f"{folder / file.path} did not arrive as the Hub has it (checksum or size differ) "
                "and was removed; download again"
            )


def fetch_one(repo_id: str, commit: str, file: RemoteFile, folder: Path) -> None:
    """Bring one file of a data set into `folder` and check it; errors as `fetch`."""
    from huggingface_hub import hf_hub_download

    path = folder / file.path
    try:
        path.unlink(missing_ok=True)
        hf_hub_download(
            repo_id, file.path, repo_type="dataset", revision=commit, local_dir=str(folder)
        )
    except Exception as error:  # the kinds differ between versions and transports
        raise explain(error, repo_id, commit) from error
    if not is_complete(path, file):
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} did not arrive as the Hub has it (checksum or size differ) and was removed; "
            "run it again"
        )


def explain(error: BaseException, repo_id: str, revision: str) -> EditMGTError:
    """The error to raise for one that huggingface_hub raised; ours are given back unchanged."""
    if isinstance(error, EditMGTError):
        return error
    return InputError(f"cannot download {repo_id}: {_reason(error, repo_id, revision)}")


def _reason(error: BaseException, repo_id: str, revision: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = f"{type(error).__name__}: {_first_line(error)}"
    # A gated repository is also a kind of "not found", so it comes first.
    if "GatedRepoError" in kinds or status == 403:
        return (
            f"its authors ask you to accept terms (Gemma's apply to the text encoder); accept them "
            f"on https://huggingface.co/{repo_id}, then log in with `hf auth login`"
        )
    if "RevisionNotFoundError" in kinds:
        return f"it has no revision {revision}; give an existing commit, tag or branch"
    if "RepositoryNotFoundError" in kinds or status == 401:
        return "there is no such repository, or it is private; check the name or `hf auth login`"
    if "HFValidationError" in kinds:
        return "this is not a repository name; give owner/name"
    if kinds & _UNREACHABLE:
        return (
            f"the Hub cannot be reached ({said}); check the connection and run it again, complete "
            "files are kept"
        )
    if "EntryNotFoundError" in kinds or status == 404:
        return f"a file is not there at revision {revision} ({said})"
    if status is not None:
        return f"the Hub answered {status} ({said}); try again later"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; free some room and run it again, complete files are kept"
    if isinstance(error, PermissionError):
        return f"the folder cannot be written ({said}); choose another"
    return f"{said}; run it again, complete files are kept"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
