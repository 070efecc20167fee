"""Schema keywords newer than the oldest supported ComfyUI."""

import inspect
from collections.abc import Callable
from typing import Any

CATEGORY = "EditMGT"


def known(target: Callable, **keywords: Any) -> dict[str, Any]:
    """Keep the keywords that this ComfyUI's `target` accepts."""
    return {k: v for k, v in keywords.items() if k in inspect.signature(target).parameters}


def expert(kind: Any) -> dict[str, Any]:
    """Keywords of an input that few people change; an advanced one where ComfyUI has those."""
    return {"optional": True, **known(kind.Input, advanced=True)}
