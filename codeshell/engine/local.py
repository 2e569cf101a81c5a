"""The local engine: a pool of worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """What a stage needs of an engine. Ray or Slurm fit behind the same call."""

    workers: int

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield `function(item)` for every item, in the order of `items`.

        `function` and the items are pickled: a module-level function and plain data. An exception in a worker is
        raised here; items that have not started are then dropped.
        """
        ...


class LocalEngine:
    """Worker processes on this machine; with one worker (or one item) everything runs in this process."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        if self.workers == 1 or len(items) <= 1:
            for item in items:
                yield function(item)
            return
        # forkserver: workers start clean of our threads (tokenizers, torch and Arrow start some), so none can
        # inherit a lock that is held.
        context = multiprocessing.get_context("forkserver")
        count = min(self.workers, len(items))
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            pending: deque[Future[Result]] = deque()
            waiting = iter(items)
            try:
                # Twice the workers in flight, not all of them: results come back in order and do not pile up.
                for item in waiting:
                    pending.append(pool.submit(function, item))
                    if len(pending) >= 2 * count:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker process died (killed, or out of memory); run again to resume, with fewer --workers "
                    "if memory is short"
                ) from error
            finally:
                for future in pending:
                    future.cancel()
