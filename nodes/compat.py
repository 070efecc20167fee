"""Schema keywords that came after the oldest supported ComfyUI."""

import inspect
from collections.abc import Callable
from typing import Any

CATEGORY = "EditMGT"


def known(target: Callable, **wanted: Any) -> dict[str, Any]:
    """Those keywords that this ComfyUI's `target` takes; without the others, less polish."""
    return {k: v for k, v in wanted.items() if k in inspect.signature(target).parameters}


def expert(kind: Any) -> dict[str, Any]:
    """Keywords of an input that few people change: folded away where ComfyUI can do that."""
    return {"optional": True, **known(kind.Input, advanced=True)}
