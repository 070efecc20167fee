"""Pictures as they are published: what the editor saw, upright and without metadata."""

import io
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from PIL import Image

from ...errors import InputError
from ...pictures.contents import split
from ..backends.sizes import resized
from ..decoding import decode_picture
from ..rows import Row, Stored

EDITED, OTHER, MASK = "edits.edited", "edits.other", "quality.mask"
_KEPT = ("PNG", "JPEG")
_JPEG_END = b"\xff\xd9"
_PNG_BYTES = 1.5  # per pixel, of a photograph


def original_of(row: Row) -> bytes:
    """The original at the size of its edit, 8-bit RGB, upright, no metadata.

    A plain PNG or JPEG is only rid of its metadata; everything else becomes a PNG. InputError.
    """
    data = row.encoded()
    if _is_plain(row):
        kind = row.value("images.format")
        contents = split(data, kind)
        single = kind == "PNG" or contents.pixels.find(_JPEG_END) == len(contents.pixels) - 2
        if contents.orientation == 1 and single:  # a JPEG may hold previews behind its end
            return contents.pixels
    rgb = resized(decode_picture(data).rgb, size_of(row))
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def size_of(row: Row) -> tuple[int, int]:
    """Width and height of a pair."""
    return tuple(
        row.value(f"edits.{side}") or row.value(f"images.{side}") for side in ("width", "height")
    )


def expected_bytes(row: Row) -> int:
    """About how large `original_of` is."""
    if _is_plain(row):
        return row.value("images.bytes")
    width, height = size_of(row)
    return int(width * height * _PNG_BYTES)


def _is_plain(row: Row) -> bool:
    values = row.found["images"].values
    return (
        values.get("format") in _KEPT
        and values.get("mode") in ("RGB", "L")
        and values.get("bits") == 8
        and values.get("frames") == 1
        and not values.get("trailing")
        and not values.get("transparent")
        and size_of(row) == (values.get("width"), values.get("height"))
    )


class Fingerprints:
    """Checksum and size of stored pictures, from the directories of their zip files."""

    def __init__(self) -> None:
        self._path, self._known = Path(), {}

    def of(self, row: Row, name: str) -> tuple[int, int] | None:
        """CRC-32 and bytes of the picture "stage.name"; None if the row has none. InputError."""
        stage, _, key = name.partition(".")
        picture = row.found[stage].pictures.get(key) if stage in row.found else None
        if not isinstance(picture, Stored):
            return None
        if picture.path != self._path:
            self._path, self._known = picture.path, _directory(picture.path)
        if picture.member not in self._known:
            raise InputError(f"{picture.path} holds no {picture.member}; compute the stage again")
        return self._known[picture.member]


def _directory(path: Path) -> dict[str, tuple[int, int]]:
    try:
        with ZipFile(path) as archive:
            return {info.filename: (info.CRC, info.file_size) for info in archive.infolist()}
    except (OSError, BadZipFile) as error:
        raise InputError(f"cannot read {path} ({error}); compute its stage again") from error
