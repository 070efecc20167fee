"""What went wrong at the Hub, in words a user can act on.

The libraries under huggingface_hub changed between its versions, so an error is told by the names
of its classes, not by importing them.
"""

import errno

from ..errors import EditMGTError, InputError

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
