"""EditMGT: edit pictures by instruction with a masked generative transformer.

    import editmgt_lib
    model = editmgt_lib.load("toyworld")
    result = model.edit(image, "remove the red balloon")

Importing this package loads nothing heavy: names are looked up when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "loader",
    "EditMGT": "pipeline",
    "EditResult": "results",
    "Decoded": "results",
    "Tokens": "pictures.canvas",
    "Canvas": "pictures.canvas",
    "FitOptions": "pictures.fitting",
    "Instruction": "text.instruction",
    "Localization": "localization.maps",
    "LocalizationOptions": "localization.maps",
    "SamplingOptions": "sampling.options",
    "StepEvent": "sampling.loop",
    "Lora": "lora",
    "Settings": "settings",
    "read_image": "pictures.images",
    "read_mask": "pictures.images",
    "write_image": "pictures.images",
    "EditMGTError": "errors",
    "InputError": "errors",
    "CheckpointError": "errors",
    "OutOfMemory": "errors",
    "Cancelled": "errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
