"""Options of the executors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checks import require_choice, require_number
from ..errors import InputError
from ..tables import build

EXECUTORS = ("local", "ray")
STAGES = ("images", "scores", "instructions", "edits", "quality")


@dataclass(frozen=True)
class Pool:
    """Workers of one stage. cpus, gpus: that Ray sets aside for each. Raises InputError."""

    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        require_number("workers", self.workers, 1, 4096, whole=True)
        require_number("cpus", self.cpus, 0.01, 1024)
        require_number("gpus", self.gpus, 0, 64)


@dataclass(frozen=True)
class EngineOptions:
    """How stages are run; results do not depend on it. Raises InputError.

    Attributes:
        executor: "local", or "ray": Ray Data, see `executor_ray`.
        workers: threads, processes, or actors of Ray, for stages that `pools` does not name.
        processes: for untrusted files: one that crashes its decoder fails alone. In Ray always.
        shard_rows: rows of a shard, the most work that a kill loses. Only new rows follow a change.
        pools: fields of `Pool` by stage.
        address: of a Ray cluster that runs already; by default RAY_ADDRESS, else one is started.
    """

    executor: str = "local"
    workers: int = 2
    processes: bool = False
    shard_rows: int = 256
    pools: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""

    def __post_init__(self) -> None:
        require_choice("engine.executor", self.executor, EXECUTORS)
        require_number("engine.workers", self.workers, 1, 4096, whole=True)
        require_number("engine.shard_rows", self.shard_rows, 1, 10**6, whole=True)
        for stage, table in self.pools.items():
            require_choice("engine.pools", stage, STAGES)
            if not isinstance(table, Mapping):
                raise InputError(f"engine.pools.{stage} is {table!r}; write a table")
            self.pool(stage)

    def pool(self, stage: str) -> Pool:
        """Workers of a stage."""
        table = {"workers": self.workers, **self.pools.get(stage, {})}
        return build(Pool, table, f"engine.pools.{stage}", {})
