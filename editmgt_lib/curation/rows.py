"""The row contract: what a stage is given, what it finds, and what is written.

A stage only adds what it found to a row. Whether the row is kept is decided afterwards, from the
values (`decide`), so a threshold can be moved without computing anything again.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from ..errors import EditMGTError, InputError

KEEP, DROP, FAILED = "keep", "drop", "failed"
VERDICTS = (KEEP, DROP, FAILED)


class Unavailable(EditMGTError):
    """A back end cannot answer at all (no server, no weights); stops the run, which can resume."""


@dataclass(frozen=True)
class Stored:
    """An encoded picture on disk.

    member: name within a zip file, number of the row within a parquet file; empty for a picture
    file.
    """

    path: Path
    member: str = ""

    def read(self) -> bytes:
        """The encoded bytes. Raises InputError if they are gone."""
        try:
            if not self.member:
                return self.path.read_bytes()
            if self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as archive:
                    return archive.read(self.member)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"cannot read the picture {self.path} {self.member} ({error})"
            ) from error
        from .parquet_cells import read_cell

        return read_cell(self.path, int(self.member))


Picture = bytes | Stored
"""An encoded picture (PNG, JPEG, WebP): its bytes, or where they lie. Never decoded pixels."""


@dataclass(frozen=True)
class Failure:
    """Why a stage found nothing.

    Attributes:
        code: to count by, in snake_case ("unreadable", "parse_error", "refused").
        detail: for people.
        lasting: False if another try may succeed (a time-out); the next run tries again.
    """

    code: str
    detail: str = ""
    lasting: bool = True


@dataclass(frozen=True, repr=False)
class Found:
    """What one stage found about one row.

    Attributes:
        values: plain values that JSON holds: scores, hashes, captions. None: not scored.
        pictures: made by this stage, by name.
        failure: values and pictures may be incomplete.
        parts: the row continues as these rows, one for each (several instructions for a picture).
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    failure: Failure | None = None
    parts: tuple["Found", ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where a picture is from and on what terms.

    Attributes:
        source: name of the source in the configuration. key: of the picture within it.
        licence: SPDX id or a name; "unknown" if nobody said.
        uses: what the licence allows, out of `terms.USES`.
        url, author: where the list has them.
    """

    source: str
    key: str
    licence: str = "unknown"
    uses: tuple[str, ...] = ()
    url: str = ""
    author: str = ""


@dataclass(frozen=True, repr=False)
class Row:
    """A picture, later a pair, with everything found about it so far.

    Attributes:
        id: of source and key, the same in every run; draws and seeds are keyed by it.
        picture: the original. None if it could not even be located.
        found: by stage, in the order they ran.
    """

    id: str
    origin: Origin
    picture: Picture | None
    found: Mapping[str, Found] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """Id of the picture this row began as."""
        return self.id.partition(".")[0]

    def value(self, name: str, default: Any = None) -> Any:
        """A value by "stage.name"."""
        stage, _, key = name.partition(".")
        found = self.found.get(stage)
        return default if found is None else found.values.get(key, default)

    def encoded(self, name: str = "") -> bytes:
        """Bytes of the original, or of the picture "stage.name".

        Raises InputError if there is none, or if the original is not the file that was measured.
        """
        stage, _, key = name.partition(".")
        picture = self.picture
        if name:
            picture = self.found[stage].pictures.get(key) if stage in self.found else None
        if picture is None:
            raise InputError(f"row {self.id} has no picture {name or 'of its own'}")
        data = picture.read() if isinstance(picture, Stored) else picture
        measured = None if name else self.value("images.sha256")
        if measured is not None and sha256(data).hexdigest() != measured:
            raise InputError(
                f"the picture {self.origin.key} of {self.origin.source} has changed since it was "
                "measured; put the old one back, or give the new one another name"
            )
        return data

    def add(self, stage: str, found: Found) -> "tuple[Row, ...]":
        """The row, or the rows it continues as, with what a stage found."""
        if not found.parts:
            return (replace(self, found={**self.found, stage: found}),)
        return tuple(
            replace(self, id=f"{self.id}.{number}", found={**self.found, stage: part})
            for number, part in enumerate(found.parts)
        )


class Stage(Protocol):
    """A pure function of rows. Both executors call it; it writes nothing and keeps no state.

    Attributes:
        name: of its folder and of the prefix of its values.
        settings: plain values that decide its results: options, model ids, revisions, versions.
            Equal settings, equal results.
        batch: rows of a call; what is found about a row must not depend on the others.
        missing: what it cannot score and what is lacking for that, one sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    batch: int
    missing: tuple[str, ...]

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        """What was found about each row, in order.

        An exception fails the batch: its rows are tried one by one, and those that raise are
        written as failed, with the exception's attribute `failure` if it has one. `Unavailable`
        stops the run instead.
        """
