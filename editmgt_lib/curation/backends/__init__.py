"""Who answers: editors, writers, judges and scorers behind narrow interfaces; door to the room.

base (the roles) <- one file per back end <- registry (tables to back ends)
"""

from .base import (
    CATEGORIES,
    RUBRIC,
    Answer,
    Edited,
    Editor,
    Judge,
    NoAnswer,
    Preference,
    Scorer,
    Writer,
    prefer,
    seed_of,
)
from .registry import OFFLINE, Backends, read_backends
from .sizes import Sizing, working_size
from .toyworld import toy_picture

__all__ = [
    "CATEGORIES", "OFFLINE", "RUBRIC", "Answer", "Backends", "Edited", "Editor", "Judge",
    "NoAnswer", "Preference", "Scorer", "Sizing", "Writer", "prefer", "read_backends", "seed_of",
    "toy_picture", "working_size",
]  # fmt: skip
