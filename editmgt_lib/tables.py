"""TOML tables and frozen dataclasses: strict reading, plain writing."""

import difflib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import EditMGTError, InputError


@cache
def toml_reader() -> Any:
    """The module that reads TOML."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ImportError as error:
        raise InputError("Python 3.10 needs the package tomli to read TOML; install it") from error
    return tomli


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file. Raises InputError naming it."""
    try:
        return toml_reader().loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def set_value(table: dict[str, Any], change: str, lists: Sequence[str] = ()) -> None:
    """Set one value: "key=value", "engine.precision=float32", "edit.learning_rate=1e-4".

    lists: keys of lists of tables, which are addressed by their `name` or `kind`.
    """
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"set is {change!r}; write key=value")
    *path, last = key.strip().split(".")
    for part in path:
        entries = [entry for name in lists for entry in table.get(name, [])]
        named = {entry.get("name") or entry.get("kind"): entry for entry in entries}
        table = named[part] if part in named else table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"set is {change!r}, but {part} is not a table")
    try:
        table[last] = toml_reader().loads(f"value = {text}")["value"]
    except ValueError:
        table[last] = text.strip()  # a word without quotes


def build(kind: type, table: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> Any:
    """Build a dataclass from a table and from fields already made."""
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.name not in given]
    refuse_unknown(table, known, where)
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if missing := [n for n in needed if n not in table and n not in given]:
        raise InputError(f"{where}: {missing[0]} is missing")
    values = {k: _converted(v, hints[k], f"{where}.{k}") for k, v in table.items()}
    try:
        return kind(**values, **given)
    except EditMGTError as error:
        raise InputError(f"{where}: {error}") from error


def refuse_unknown(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise InputError for a key that is not known, naming the nearest one that is."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), 1)
            advice = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
            raise InputError(f"{where}: there is no key {key!r}; {advice}")


def _converted(value: Any, hint: Any, where: str) -> Any:
    """Check a TOML value against a field's type."""
    if get_origin(hint) in (Union, UnionType):
        return _one_of(value, [k for k in get_args(hint) if k is not type(None)], where)
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r}; write a table")
        return build(hint, value, where, {})
    origin = get_origin(hint) or hint
    if origin is tuple:
        return _tuple(value, get_args(hint), where)
    if origin is float and type(value) is int:
        return float(value)
    expected = {Mapping: dict}.get(origin, origin)
    if origin in (int, float, str, bool) and type(value) is not expected:
        raise InputError(f"{where} is {value!r}; use a value of type {expected.__name__}")
    if origin is Mapping and not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}; write a table")
    return value


def _one_of(value: Any, kinds: list[Any], where: str) -> Any:
    for kind in kinds[1:]:
        with suppress(InputError):
            return _converted(value, kind, where)
    return _converted(value, kinds[0], where)


def _tuple(value: Any, kinds: tuple[Any, ...], where: str) -> tuple:
    if not isinstance(value, list):
        raise InputError(f"{where} is {value!r}; write a list")
    if len(kinds) != 2 or kinds[1] is not ...:
        if len(value) != len(kinds):
            raise InputError(f"{where} is {value!r}; write {len(kinds)} values")
        return tuple(_converted(v, k, where) for v, k in zip(value, kinds, strict=True))
    return tuple(_converted(v, kinds[0], where) for v in value)


def without_none(value: Any) -> Any:
    """Drop what is None from nested plain values, and turn tuples into lists."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, (list, tuple)) else value


def to_toml(table: Mapping[str, Any], path: str = "") -> str:
    """Write plain values, tables and lists of tables as TOML."""
    lines, below = [], []
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            below.append(f"\n[{name}]\n{to_toml(value, name)}")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            below += [f"\n[[{name}]]\n{to_toml(v, name)}" for v in value]
        else:
            # JSON's scalars and lists are TOML's, but for numbers like 1e-05.0
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines + below)
