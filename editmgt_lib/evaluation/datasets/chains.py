"""Chains of edits: turns of a session, each of which starts from the result of the last."""

from collections.abc import Sequence
from typing import NamedTuple

from ...errors import InputError
from .reading import item_id, require_counts

Key = tuple[str, int]
"""Session and turn, from 1."""


class Place(NamedTuple):
    """Where a turn stands in its chain."""

    id: str
    previous: str | None
    final: bool


def places_of(name: str, turns: int, sessions: int, keys: Sequence[Key]) -> dict[Key, Place]:
    """Place each turn in its chain.

    keys: in the order of the data, which need not be that of the turns.
    Raises InputError for other counts than expected, or a session with a gap.
    """
    numbers: dict[str, list[int]] = {}
    for session, turn in keys:
        numbers.setdefault(session, []).append(turn)
    found = ["sessions"] * len(numbers) + ["turns"] * len(keys)
    require_counts(name, {"turns": turns, "sessions": sessions}, found)
    for session, found_turns in numbers.items():
        if sorted(found_turns) != list(range(1, len(found_turns) + 1)):
            raise InputError(
                f"{name}: session {session} has turns {sorted(found_turns)}, not 1 to "
                f"{len(found_turns)}; fetch the data again"
            )
    ids = {key: item_id(name, number, *key) for number, key in enumerate(keys)}
    return {
        (session, turn): Place(
            ids[session, turn], ids.get((session, turn - 1)), turn == len(numbers[session])
        )
        for session, turn in keys
    }
