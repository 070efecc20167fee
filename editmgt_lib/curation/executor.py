"""Running a stage over shards, in this process, by threads or by processes.

What is written depends neither on the executor, nor on the number of workers, nor on the order
they finish in. `executor_ray` is the other executor.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Protocol

from ..errors import InputError
from .assembly import Curation
from .engine import EngineOptions
from .parquet_cells import read_cells
from .rows import KEEP, Failure, Found, Row, Stage, Stored, Unavailable, failure_of
from .store import Manifest, PieceName, pieces, write_piece
from .verdicts import read_decisions

Answered = Callable[[Row, Found], None]


class Mapper(Protocol):
    """Workers of either executor. A context manager."""

    def __enter__(self) -> "Mapper": ...

    def __exit__(self, *_: object) -> None: ...

    def map(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Found]]:
        """Rows with what was found, in order. Raises Unavailable."""


def run_shard(
    curation: Curation,
    stage: Stage,
    shard: int,
    workers: Mapper,
    answered: Answered,
    go_on: Callable[[], bool] = lambda: True,
) -> Manifest | None:
    """Run a stage on the rows of a shard that still need it; None if there are none.

    answered: told of each row as it is done. go_on: asked before each row; after a no, what the
    workers have in hand is finished, and the other rows are left to another run.
    Raises Unavailable, and InputError if the folder cannot be written; nothing of the shard is kept
    then.
    """
    due = due_rows(curation, stage.name, shard)
    if not due:
        return None

    def results() -> Iterator[tuple[str, Found]]:
        for row, found in workers.map(takewhile(lambda _: go_on(), due)):
            answered(row, found)
            yield row.id, found

    name = PieceName(stage.name, shard, len(pieces(curation.folder, stage.name, shard)))
    return write_piece(curation.folder, name, results())


def due_rows(curation: Curation, stage: str, shard: int) -> list[Row]:
    """Rows kept so far that a stage has not looked at, or failed on in a way that may pass."""
    decisions = read_decisions(curation, shard)
    found = curation.found(stage, shard)
    earlier = curation.stages[: curation.stages.index(stage)]

    def is_due(row: Row) -> bool:
        decision = decisions.get(row.id)  # None for one that continues as several
        if decision is None or not all(name in row.found for name in earlier):
            return False
        if row.id not in found:
            return decision.verdict == KEEP
        failure = found[row.id].failure
        return failure is not None and not failure.lasting and decision.stage == stage

    return [row for row in curation.rows(shard, stage) if is_due(row)]


def _with_bytes(rows: Iterable[Row]) -> Iterator[Row]:
    """Read pictures in parquet files in order, a few at a time; files are left to the workers."""
    for path, group in groupby(rows, _parquet_of):
        if path is None:
            yield from group
            continue
        left = deque(group)
        try:
            for cell in read_cells(path, [int(row.picture.member) for row in left]):
                row = left.popleft()
                yield row if isinstance(cell, InputError) else replace(row, picture=cell)
        except InputError:
            yield from left  # they fail where they are read, row by row


def _parquet_of(row: Row) -> Path | None:
    path = row.picture.path if isinstance(row.picture, Stored) else None
    return path if path is not None and path.suffix == ".parquet" else None


# --- one batch ---


def answer(stage: Stage, rows: Sequence[Row]) -> list[Found]:
    """Run a stage on a batch; if that fails, on each row, so that one cannot spoil the others."""
    try:
        found = list(stage(rows))
        if len(found) != len(rows):
            raise RuntimeError(f"{stage.name} gave {len(found)} answers for {len(rows)} rows")
        return found
    except Unavailable:
        raise
    except Exception as error:
        if len(rows) > 1:
            return [answer(stage, [row])[0] for row in rows]
        return [Found(failure=failure_of(error))]


# --- workers ---


class Workers:
    """Threads or processes that run one stage. A context manager."""

    def __init__(self, stage: Stage, options: EngineOptions) -> None:
        self.stage, self.options = stage, options
        self.workers = options.pool(stage.name).workers
        self._pool: Executor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def map(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Found]]:
        """Rows with what was found, in order; a few batches are read ahead."""
        rows = _with_bytes(rows)
        batches = iter(lambda: list(islice(rows, max(1, self.stage.batch))), [])
        if self.workers == 1 and not self.options.processes:
            for batch in batches:
                yield from zip(batch, answer(self.stage, batch), strict=True)
            return
        ahead: deque[tuple[list[Row], Future]] = deque()
        try:
            for batch in batches:
                ahead.append((batch, self._submit(batch)))
                if len(ahead) >= 2 * self.workers:
                    yield from self._next(ahead)
            while ahead:
                yield from self._next(ahead)
        finally:
            for _, future in ahead:
                future.cancel()

    def _next(self, ahead: deque[tuple[list[Row], Future]]) -> Iterator[tuple[Row, Found]]:
        batch, future = ahead.popleft()
        try:
            found = future.result()
        except BrokenProcessPool:
            found = [self._alone(row) for row in batch]
        yield from zip(batch, found, strict=True)

    def _submit(self, batch: list[Row]) -> Future:
        try:
            return self._opened().submit(*self._call(batch))
        except BrokenProcessPool:
            self._close()
            return self._opened().submit(*self._call(batch))

    def _call(self, batch: list[Row]) -> tuple:
        return (
            (_answer_in_process, batch) if self.options.processes else (answer, self.stage, batch)
        )

    def _alone(self, row: Row) -> Found:
        """Run a row in a process of its own: one of its batch killed the last."""
        with _processes(self.stage, 1) as pool:
            try:
                return pool.submit(_answer_in_process, [row]).result()[0]
            except BrokenProcessPool:
                return Found(failure=Failure("crashed", "its process died"))

    def _opened(self) -> Executor:
        if self._pool is None:
            count = self.workers
            processes = self.options.processes
            self._pool = _processes(self.stage, count) if processes else ThreadPoolExecutor(count)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


_STAGE: list[Stage] = []  # of a worker process, unpickled once


def _processes(stage: Stage, count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # torch and threads do not survive a fork
    return ProcessPoolExecutor(count, context, _begin, (stage,))


def _begin(stage: Stage) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _STAGE[:] = [stage]


def _end_with_parent() -> None:
    """A killed parent says nothing; its workers would wait for ever, holding their models."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_in_process(rows: list[Row]) -> list[Found]:
    return answer(_STAGE[0], rows)
