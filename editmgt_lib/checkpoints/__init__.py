"""Checkpoints, folders or single files: finding, checking, reading and writing them."""

from .layout import FolderReport, PartReport, check_mask_token, describe, layout_of
from .loading import load_module
from .names import resolve
from .packing import pack
from .saving import save_module
from .weights import read_config, read_headers, read_state_dict

__all__ = [
    "FolderReport",
    "PartReport",
    "check_mask_token",
    "describe",
    "layout_of",
    "load_module",
    "pack",
    "read_config",
    "read_headers",
    "read_state_dict",
    "resolve",
    "save_module",
]
