"""Which of several processes this is, as torchrun, `accelerate launch` and others say."""

import os
from typing import NamedTuple

from ..errors import InputError


class Process(NamedTuple):
    """Process `rank` of `world`; `local` on its machine, None if nothing launched it."""

    rank: int
    world: int
    local: int | None

    def device(self, name: str) -> str:
        """The device of this process: one GPU each, where any may be taken."""
        if name not in ("auto", "cuda") or self.local is None:
            return name
        import torch

        return f"cuda:{self.local}" if torch.cuda.is_available() else name


def this_process() -> Process:
    """Read RANK, WORLD_SIZE and LOCAL_RANK. Raises InputError for what cannot be."""
    rank, world, local = _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")
    rank, world = rank or 0, 1 if world is None else world
    if rank >= world:  # it would have no share of anything
        raise InputError(
            f"the environment says RANK={rank} and WORLD_SIZE={world}; ranks count from 0 to one "
            "below WORLD_SIZE"
        )
    return Process(rank, world, local)


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is not None and not value.isdecimal():
        raise InputError(f"the environment says {name}={value!r}; set a whole number or nothing")
    return None if value is None else int(value)
