"""What a folder was curated with, kept in it: exports need it, and thresholds may have moved."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_json
from ..tables import without_none
from .config import CurationConfig, built_config

NAME = "config.json"


def save_config(folder: Path, config: CurationConfig, stages: Sequence[str]) -> None:
    """Write a configuration with every default, and the names of its stages."""
    atomic_write_json(folder / NAME, {"stages": list(stages), "config": config_table(config)})


def config_table(config: CurationConfig) -> dict[str, Any]:
    """A configuration as plain tables."""
    return without_none(asdict(config))


def saved_config(folder: Path) -> tuple[CurationConfig, tuple[str, ...]]:
    """Read what `save_config` wrote. Raises InputError."""
    path = folder / NAME
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return built_config(saved["config"], str(path)), tuple(saved["stages"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{folder} is not what `editmgt curate` wrote ({NAME}: {reason}); name such a folder, "
            "or run the command once more"
        ) from error
