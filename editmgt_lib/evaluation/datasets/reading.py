"""What the benchmarks share: ids, checked cells, pictures, counts, and errors that name the row."""

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...data.folders import below
from ...errors import InputError, first_line
from ...pictures.formats import HEAD, format_of
from ..items import Store

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif",
             "BMP": ".bmp", "AVIF": ".avif"}  # fmt: skip
_LONGEST_KEY = 48  # characters of a key in an id
_EXAMPLES = 3
_PLACEHOLDERS = {"a train station in city", "a train station in a city"}

T = TypeVar("T")


def item_id(benchmark: str, row: int, *keys: Any) -> str:
    """Name an item for ever: benchmark, row in the data, and its key there.

    Keys repeat in some benchmarks, and may hold what file names cannot.
    """
    slug = "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", str(key)).strip("-") for key in keys)
    return f"{benchmark}-{row:05d}-{slug[:_LONGEST_KEY]}".rstrip("-")


def cell(row: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """A value of a row, checked. Raises InputError if it is missing, blank or of another type."""
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or (
        isinstance(value, str) and not value.strip()
    ):  # fmt: skip
        raise InputError(f"{where}: {name} is {_short(value)}, not {_KINDS[kind]}; mend the data")
    return value.strip() if isinstance(value, str) else value


_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}


def captions(**found: Any) -> dict[str, str]:
    """Captions by kind, leaving out those that are missing or blank."""
    return {
        kind: text.strip()
        for kind, text in found.items()
        if isinstance(text, str) and text.strip() not in ("", "None")
    }


def caption_defects(texts: Mapping[str, str]) -> tuple[str, ...]:
    """Known defects of captions: "placeholder-caption", "equal-captions"."""
    plain = [texts.get(kind, "").rstrip(". ").casefold() for kind in ("input", "output")]
    found = ["placeholder-caption"] if _PLACEHOLDERS.intersection(plain) else []
    return tuple(found + (["equal-captions"] if plain[0] and plain[0] == plain[1] else []))


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file that holds an object or a list. Raises InputError for any other."""
    try:
        return parse_json(path.read_bytes(), str(path), kind)
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; give the folder that holds it") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def parse_json(data: bytes, name: str, kind: type[T]) -> T:
    """Parse the content of a JSON file; errors as `read_json`."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {name} as JSON ({error}); fetch it again") from error
    if not isinstance(value, kind):
        raise InputError(f"{name} holds {type(value).__name__}, not {kind.__name__}")
    return value


def picture_bytes(data: Any, where: str) -> bytes:
    """The picture of an Image cell, or of bytes. Raises InputError for no picture."""
    content = data.get("bytes") if isinstance(data, Mapping) else data
    if not isinstance(content, bytes) or format_of(content[:HEAD]) is None:
        raise InputError(f"{where} holds no picture but {_short(content)}; fetch the data again")
    return content


def keep_picture(data: Any, store: Store, where: str) -> str:
    """Store a picture under its digest, so that equal pictures are one file; see `picture_bytes`.

    Returns what `Item` holds.
    """
    content = picture_bytes(data, where)
    digest = hashlib.sha256(content).hexdigest()[:20]
    return store(digest + _SUFFIXES[format_of(content[:HEAD])], content)


class PictureFolder:
    """Pictures that stay where they are; what is wrong with any is said once, by `check`."""

    def __init__(self, data: Path) -> None:
        self._root = data.resolve()
        self._missing: list[str] = []

    def find(self, *names: Any) -> str:
        """The first name that is a picture below the folder. Raises InputError for one outside."""
        for name in names:
            try:
                path = below(self._root, name)
            except InputError as error:
                raise InputError(f"a list in {self._root} names a picture: {error}") from error
            if path.is_file() and _is_picture(path):
                return posixpath.normpath(name)
        self._missing.append(names[0])
        return names[0]

    def check(self) -> None:
        """Raise InputError if any picture is missing or none."""
        if not self._missing:
            return
        names = list(dict.fromkeys(self._missing))
        examples = ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
        raise InputError(
            f"{len(names):,} pictures are missing in {self._root} or are no pictures (Git LFS "
            f"pointers?): {examples}; fetch the data again"
        )


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return format_of(file.read(HEAD)) is not None


def damaged(path: Path, why: object) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(f"cannot read {path} ({first_line(why)}); fetch it again")


def require_counts(name: str, expected: Mapping[str, int], found: Iterable[str]) -> None:
    """Raise InputError unless each kind occurs as often as the benchmark's authors say."""
    counts = Counter(found)
    wrong = [
        f"{kind} {counts[kind]:,} (expected {expected.get(kind, 0):,})"
        for kind in dict.fromkeys((*expected, *counts))
        if counts[kind] != expected.get(kind, 0)
    ]
    if wrong:
        raise InputError(
            f"{name} has other counts than its authors state: {', '.join(wrong)}; fetch the data "
            "again"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
