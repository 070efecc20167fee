"""Checkpoint folders: finding, checking, reading and writing them."""

from .layout import (
    PARTS,
    FolderReport,
    PartReport,
    check_folder,
    describe,
    read_settings,
)
from .loading import load_module
from .reading import read_config, read_headers, read_state_dict
from .resolve import resolve
from .saving import save_module
from .transformer_config import check_transformer_config, infer_connector

__all__ = [
    "PARTS",
    "FolderReport",
    "PartReport",
    "check_folder",
    "check_transformer_config",
    "describe",
    "infer_connector",
    "load_module",
    "read_config",
    "read_headers",
    "read_settings",
    "read_state_dict",
    "resolve",
    "save_module",
]
