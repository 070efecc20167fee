"""Checkpoint folders: finding, checking, reading and writing them."""

from .layout import (
    PARTS,
    FolderReport,
    PartReport,
    check_folder,
    check_mask_token,
    describe,
    read_settings,
)
from .loading import load_module
from .names import resolve
from .saving import save_module
from .weights import read_config, read_headers, read_state_dict

__all__ = [
    "PARTS",
    "FolderReport",
    "PartReport",
    "check_folder",
    "check_mask_token",
    "describe",
    "load_module",
    "read_config",
    "read_headers",
    "read_settings",
    "read_state_dict",
    "resolve",
    "save_module",
]
