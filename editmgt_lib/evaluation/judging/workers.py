"""Threads that take jobs from a row, and can be left at any moment."""

from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
_END = object()


def in_threads(
    work: Callable[[Job, Event], Result], jobs: Iterable[Job], threads: int
) -> Iterator[Result]:
    """Give the results in the order in which they come. An exception of `work` is raised here.

    When the iterator is closed, no further job begins and the event given to `work` is set; jobs
    under way are not waited for: a request may last minutes. (concurrent.futures would wait.)
    """
    rest, taking, stop = iter(jobs), Lock(), Event()
    results: Queue[tuple[bool, Any]] = Queue()

    def run() -> None:
        try:
            while not stop.is_set():
                with taking:
                    job = next(rest, _END)
                if job is _END:
                    break
                results.put((True, work(job, stop)))
            results.put((True, _END))
        except BaseException as error:
            results.put((False, error))

    started = [Thread(target=run, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    left = threads
    try:
        while left:
            good, result = results.get()
            if not good:
                raise result
            if result is _END:
                left -= 1
            else:
                yield result
    finally:
        stop.set()
