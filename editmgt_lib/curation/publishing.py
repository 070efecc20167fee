"""From the archive of a shard to picture files, never over a file that is there."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from ..errors import CheckpointError, InputError


def publish(archive: Path, out: Path, paths: Mapping[str, PurePosixPath]) -> None:
    """Write the pictures `edited` of a complete archive as files, and remove it.

    Nothing is done without an archive, so it may be called again after a kill. Raises InputError if
    a file is there that this archive did not write; CheckpointError if the archive is damaged.
    """
    if not archive.is_file():
        return
    for id, data in _edited(archive):
        # Its temporary file lies with the shards, where the next run removes what a kill leaves.
        _place(out / paths[id], data, archive.with_name(f".{uuid4().hex[:16]}.tmp.png"))
    archive.unlink()


def _edited(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Ids of rows and their pictures."""
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.namelist():
                id, picture, _ = member.rsplit(".", 2)
                if picture == "edited":
                    yield id, file.read(member)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{archive} cannot be used ({error}); remove {archive.stem}.* there, then run again"
        ) from error


def _place(path: Path, data: bytes, temporary: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except FileExistsError as error:
        if path.is_file() and path.read_bytes() == data:
            return  # a run was killed between two pictures
        raise InputError(
            f"{path} is there, and not by this run; move it away, then run again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; make room") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename(temporary: Path, path: Path) -> None:
    """Rename, but only where nothing is. Raises FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)
