"""The local engine: a pool of worker processes on this machine."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from types import TracebackType
from typing import Protocol, TypeVar

from codeshell.engine.arrow import leave_out_pandas
from codeshell.environment import usable_cores
from codeshell.errors import UserError

KEEP_ARROW_PAGES = ("MIMALLOC_PURGE_DELAY", "-1")
"""For Arrow's allocator in the workers: batch after batch takes the same buffers, and without this their pages are
given back and zeroed anew each time (a tenth of a worker's time on Parquet)."""

EARLY_WORKERS = 4
"""Started before there is work, at most: a small job on a machine of many cores may never need the others."""

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

    def close(self) -> None:
        """Give back what the engine holds (processes, a cluster's connection); a later `map` takes it again."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalEngine:
    """Worker processes on this machine; with one worker (or one item) everything runs in this process.

    The processes are started by the first `map` that needs them and serve the later ones too; `close` ends them.

    Args:
        workers: how many; 0 means every core.
        module: whose functions will be mapped. Some processes are started at once then and import it while the caller
            does its own imports, which is half a second that the first `map` need not wait.
    """

    def __init__(self, workers: int = 0, module: str | None = None) -> None:
        self.workers = workers or usable_cores()
        self._module = module
        self._pool: ProcessPoolExecutor | None = None
        self._used = False
        if module is not None and self.workers > 1:
            pool = self._start()
            for _ in range(min(self.workers, EARLY_WORKERS)):
                pool.submit(int)  # a process is started by the first task that finds none idle

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        if self.workers == 1 or len(items) <= 1:
            for item in items:
                yield function(item)
            return
        pool = self._start()
        self._used = True
        pending: deque[Future[Result]] = deque()
        try:
            # Twice the workers in flight, not all of them: results come back in order and do not pile up.
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            self.close()
            raise UserError(
                "a worker process died (killed, or out of memory); run again to resume, with fewer --workers "
                "if memory is short"
            ) from error
        except KeyboardInterrupt:
            self._kill()
            raise
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the worker processes, after what they are doing now; those that have got nothing to do, at once."""
        if self._pool is not None:
            if not self._used:
                self._kill_workers()
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._used = None, False

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # forkserver: workers start clean of our threads (tokenizers, torch and Arrow start some), so none can
            # inherit a lock that is held.
            with _arrow_keeps_pages():
                forkserver.ensure_running()
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("forkserver"), _begin, (self._module,)
            )
        return self._pool

    def _kill(self) -> None:
        # An interrupt waits for nobody: files are written whole or not at all, so a killed worker leaves none half.
        self._kill_workers()
        self.close()

    def _kill_workers(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()


def _begin(module: str | None) -> None:
    """What a worker does first."""
    signal.signal(signal.SIGINT, _pass)
    leave_out_pandas()
    if module is not None:
        with contextlib.suppress(ImportError):  # the task that needs it tells better
            importlib.import_module(module)


def _pass(number: int, frame: object) -> None:
    """Ctrl-C of a terminal reaches the workers too, and one that it ended would begin the next task. So it is left to
    this process, which ends them. (Not SIG_IGN: what a worker starts would inherit that.)"""


@contextlib.contextmanager
def _arrow_keeps_pages() -> Iterator[None]:
    """`KEEP_ARROW_PAGES` in the environment of what is started here, unless the caller's says otherwise.

    The server from which workers fork takes the environment of this process when it starts, and can be given no other.
    """
    name, value = KEEP_ARROW_PAGES
    given = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not given:
            del os.environ[name]
