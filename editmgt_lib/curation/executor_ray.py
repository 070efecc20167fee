"""The Ray Data executor: the same stage over the same shards, by actors of a cluster.

Its workers read rows from the output folder themselves, so all nodes must share it and the sources.
What they find comes back in order, and this process writes it as for the local executor: shards,
manifests and resuming are ours, none of Ray's.
"""

import logging
import os
import pickle
import platform
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..errors import CheckpointError, EditMGTError, InputError
from .assembly import Curation
from .engine import EngineOptions, Pool
from .executor import Workers, due_rows
from .rows import Found, Row, Stage, Unavailable
from .store import HEADER

_CALL_ROWS = 8  # of a call of a worker, at most: some bring pictures back; Ray takes 15 ms for one
_CALLS_EACH = 8  # calls of a worker, at least, so that all have work until the end
_STORE = 256 << 20, 64 << 20  # bytes of a started cluster's object store, and more for each worker
DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",  # as the local executor; 15 by default
}


class RayWorkers:
    """Actors that run one stage, loaded once and as many as the stage's pool says.

    Ray starts an actor that died again, and repeats its calls, this time in a process of their own:
    a row that kills its process fails alone, as in `Workers`. Raises InputError for a cluster that
    cannot be reached or is too small.
    """

    def __init__(
        self, curation: Curation, stage: Stage, due: Mapping[int, int], options: EngineOptions
    ) -> None:
        self._ray = imported()
        self._curation = replace(curation, folder=curation.folder.resolve())
        self._stage, self._due, self._options = stage, due, options
        self._pool = options.pool(stage.name)
        self._stack = ExitStack()
        self._answers: Iterator[tuple[str, Found]] = iter(())

    def __enter__(self) -> "RayWorkers":
        with ExitStack() as stack:
            if not self._ray.is_initialized():
                stack.callback(put_back, signal.getsignal(signal.SIGTERM))
                begin(self._ray, self._options, self._pool)
                stack.callback(self._ray.shutdown)
            _require_room(self._ray, self._options, self._pool)
            self._answers = stack.enter_context(closing(self._found()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Found]]:
        """Rows with what was found: those due of each shard in turn. See `Mapper`."""
        for row in rows:
            id, found = next(self._answers, ("", Found()))
            if id != row.id:
                raise CheckpointError(
                    f"{self._curation.folder} changed during the run (row {row.id}); run again, "
                    "and nothing else in the same folder"
                )
            yield row, found

    def _found(self) -> Iterator[tuple[str, Found]]:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        context = DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        calls = calls_of(self._due, self._pool.workers, self._stage.batch)
        with DataContext.current(context):
            answers = from_items(calls, override_num_blocks=len(calls)).map_batches(
                _Runner,
                batch_size=1,
                fn_constructor_args=(self._curation, self._stage, os.getcwd()),
                compute=ActorPoolStrategy(size=self._pool.workers, max_tasks_in_flight_per_actor=2),
                num_cpus=self._pool.cpus,
                num_gpus=self._pool.gpus or None,
            )
        batches = iter(answers.iter_batches(batch_size=1, prefetch_batches=0))
        while (batch := self._next(batches)) is not None:
            answer = pickle.loads(batch["answer"][0])
            if isinstance(answer, EditMGTError):
                raise answer
            yield from answer

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except self._ray.exceptions.RayError as error:
            raise Unavailable(
                f"Ray's workers failed at stage {self._stage.name} "
                f"({str(error).strip().splitlines()[-1]}); the run can go on from here"
            ) from error


class _Runner:
    """What one actor does."""

    def __init__(self, curation: Curation, stage: Stage, folder: str) -> None:
        with suppress(OSError):
            os.chdir(folder)  # paths of sources and models may be relative
        self._header = curation.folder / HEADER
        self._rows = lru_cache(1)(partial(due_rows, curation, stage.name))
        again = imported().get_runtime_context().was_current_actor_reconstructed
        self._workers = Workers(stage, EngineOptions(workers=1, processes=again))

    def __call__(self, calls: Mapping[str, np.ndarray]) -> dict[str, list[bytes]]:
        shard, start, stop = (int(calls[name][0]) for name in ("shard", "start", "stop"))
        answer: Any
        try:
            if not self._header.is_file():
                raise InputError(
                    f"a worker on {platform.node()} sees no {self._header}; use an --out, and "
                    "sources, that all nodes share under the same path"
                )
            rows = self._rows(shard)[start:stop]
            answer = [(row.id, found) for row, found in self._workers.map(rows)]
        except EditMGTError as error:
            answer = error
        return {"answer": [pickle.dumps(answer)]}


def calls_of(due: Mapping[int, int], workers: int, batch: int) -> list[dict[str, int]]:
    """Rows by shard and number, a call each."""
    rows = min(_CALL_ROWS, sum(due.values()) // (workers * _CALLS_EACH))
    rows = max(1, batch, rows - rows % max(1, batch))
    return [
        {"shard": shard, "start": start, "stop": min(start + rows, count)}
        for shard, count in due.items()
        for start in range(0, count, rows)
    ]


def imported() -> Any:
    """The module `ray`, told to be quiet. Raises InputError if it is not installed."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)  # read at the import
    try:
        import ray
        import ray.data  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'engine.executor is "ray", which is not installed ({error}); '
            'pip install "editmgt[ray]", or use "local"'
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def begin(ray: Any, options: EngineOptions, pool: Pool) -> None:
    """Connect to the cluster that was named, or start one in this machine alone."""
    address = options.address or os.environ.get("RAY_ADDRESS", "")
    private = {
        "num_cpus": -int(-pool.workers * pool.cpus // 1),
        "include_dashboard": False,
        "object_store_memory": _STORE[0] + pool.workers * _STORE[1],
        "_node_ip_address": "127.0.0.1",
    }
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else private),
        )
    except Exception as error:  # Ray raises many kinds, Exception itself among them
        if address:
            raise InputError(
                f"engine.address is {address!r}, which cannot be reached ({error}); check it, or "
                "leave it out to start a cluster here"
            ) from error
        raise Unavailable(f"Ray could not be started here ({error}); run again") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler raises SystemExit, but its core put another in front, which only aborts.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def put_back(handler: Any) -> None:
    """Make this the handler of SIGTERM again; Ray leaves its own behind."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _require_room(ray: Any, options: EngineOptions, pool: Pool) -> None:
    """Raise InputError for a pool that would wait for ever."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", pool.cpus), ("GPU", pool.gpus)):
        if pool.workers * each > there.get(kind, 0):
            raise InputError(
                f"{pool.workers} workers of {each:g} {kind} each are more than the "
                f"{there.get(kind, 0):g} {kind} of the Ray cluster; use fewer, or start more nodes "
                "first"
            )
