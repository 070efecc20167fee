"""Strict reading of JSON that a model wrote: exactly the schema asked for, or nothing."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_KINDS = {
    "string": str, "boolean": bool, "integer": int, "number": (int, float), "array": list,
    "object": dict,
}  # fmt: skip


class Mismatch(Exception):
    """Text that is not what was asked for; the message completes "the answer has ..."."""


def record(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object with exactly these members."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def string(most: int, least: int = 0) -> dict[str, Any]:
    """Schema of a text of `least` to `most` characters."""
    return {"type": "string", "minLength": least, "maxLength": most}


def number(low: float, high: float, whole: bool = False) -> dict[str, Any]:
    """Schema of a number within low..high."""
    return {"type": "integer" if whole else "number", "minimum": low, "maximum": high}


def choice(*names: str) -> dict[str, Any]:
    """Schema of one of these texts."""
    return {"type": "string", "enum": list(names)}


def array(items: Mapping[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    """Schema of a list."""
    return {"type": "array", "items": dict(items), "minItems": least, "maxItems": most}


def read(text: str, schema: Mapping[str, Any]) -> Any:
    """Read text that is JSON of this schema, a fence of Markdown allowed. Raises Mismatch."""
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(
            fenced[1] if fenced else text, object_pairs_hook=_unique, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise Mismatch(f"no JSON alone ({error})") from error
    _check(value, schema, "the answer")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    kind = schema["type"]
    if not isinstance(value, _KINDS[kind]) or (kind != "boolean" and isinstance(value, bool)):
        raise Mismatch(f"{_short(value)} for {where}, which is no {kind}")
    if value not in schema.get("enum", [value]):
        raise Mismatch(f"{_short(value)} for {where}, not one of {', '.join(schema['enum'])}")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not (low <= value <= high and math.isfinite(value)):
            raise Mismatch(f"{value} for {where}, outside {low} to {high}")
    if kind in ("string", "array"):
        least, most = ("minLength", "maxLength") if kind == "string" else ("minItems", "maxItems")
        if not schema.get(least, 0) <= len(value) <= schema.get(most, math.inf):
            raise Mismatch(
                f"{len(value)} {'characters' if kind == 'string' else 'items'} for {where}, "
                f"not {schema.get(least, 0)} to {schema.get(most)}"
            )
    if kind == "array":
        for number, item in enumerate(value, 1):
            _check(item, schema["items"], f"{where}, item {number}")
    if kind == "object":
        _check_members(value, schema, where)


def _check_members(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> None:
    known = schema["properties"]
    if missing := [name for name in schema["required"] if name not in value]:
        raise Mismatch(f"no {missing[0]!r} in {where}")
    if surplus := [name for name in value if name not in known]:
        raise Mismatch(f"an unknown {_short(surplus[0])} in {where}")
    for name, item in value.items():
        _check(item, known[name], name if where == "the answer" else f"{name} of {where}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
