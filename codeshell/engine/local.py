"""The local engine: a pool of worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver, resource_tracker, util
from types import TracebackType
from typing import Any, Protocol, TypeVar

from codeshell.engine import worker
from codeshell.environment import usable_cores
from codeshell.errors import UserError

KEEP_ARROW_PAGES = ("MIMALLOC_PURGE_DELAY", "-1")
"""A setting of Arrow's allocator in the workers: each batch takes the same buffers, and without this their pages are
given back and zeroed again each time (a tenth of a worker's time on Parquet)."""

EARLY_WORKERS = 4
"""Workers that are started before there is work, at most: a small job may never need more of them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """What a stage needs of an engine: local processes, Ray, or anything else that can map a function."""

    workers: int

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield `function(item)` for every item, in the order of `items`.

        `function` and the items are pickled: a module-level function and plain data. An exception in a worker is
        raised here; items that have not started are then dropped.
        """
        ...

    def prepare(self, module: str) -> None:
        """Start now what the first `map` would start, for functions of this module, and do not wait for it."""
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
        module: where the functions are defined that will be mapped. Some processes are then started at once and import
            it while the caller does its own imports; the first `map` waits half a second less for that.
    """

    def __init__(self, workers: int = 0, module: str | None = None) -> None:
        self.workers = workers or usable_cores()
        self._module = module
        self._pool: ProcessPoolExecutor | None = None
        self._used = False
        if module is not None:
            self.prepare(module)

    def prepare(self, module: str) -> None:
        if self.workers == 1 or self._pool is not None:
            return
        self._module = module
        try:
            pool = self._start()
            for _ in range(min(self.workers, EARLY_WORKERS)):
                # The executor starts a process for a task that finds none idle; what the task does is no matter.
                _submit(pool, int)
        except BaseException:
            # Ctrl-C: in `__init__`, the caller gets no engine that it could close.
            self._kill()
            raise

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        # Nothing to share: no process is worth its start.
        if self.workers == 1 or len(items) <= 1:
            for item in items:
                yield function(item)
            return
        pending: deque[Future[Result]] = deque()
        try:
            pool = self._start()
            self._used = True
            # Twice as many in flight as there are workers, so that none waits. Not all items: results come back in
            # order, and those after a slow one would pile up.
            for item in items:
                pending.append(_submit(pool, worker.work, function, item))
                if len(pending) >= 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            self._kill()
            raise UserError(
                "a worker process died (killed, or out of memory); run again to resume, with fewer --workers "
                "if memory is short"
            ) from error
        except KeyboardInterrupt:
            self._kill()
            raise
        finally:
            # After an error, or when the caller takes no more results, what has not begun is not begun.
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the worker processes after what they are doing now; at once if no `map` has used them."""
        if self._pool is not None:
            # Unused workers may still be importing `module`, which nobody waits for any more.
            if not self._used:
                for process in self._processes():
                    process.kill()
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._used = None, False

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C and the like may have come between two results: nothing is waited for then, either.
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            self._kill()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Workers are forked from a server that has no threads. A fork of this process could inherit a lock that
            # a thread of tokenizers, torch or Arrow holds, and nothing would ever release it. The server, and so each
            # worker, is born with the signals blocked that a terminal or a job's manager sends to all processes of a
            # command: the server must outlive them, and a worker that has no handler yet would print a traceback.
            # `worker.begin` sets its handlers and lifts the block.
            with _blocked(worker.SENT_TO_ALL), _tracker_ends_last():
                resource_tracker.ensure_running()
            # Apart, because the start of the tracker itself lifts a block of SIGINT and SIGTERM at its end.
            with _arrow_keeps_pages(), _blocked(worker.SENT_TO_ALL):
                forkserver.ensure_running()
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("forkserver"), worker.begin, (self._module,)
            )
        return self._pool

    def _kill(self) -> None:
        """End the workers now: their temporary files go first, unless one is in a call of C++ that takes too long."""
        # Each sentinel is ready once its process has ended.
        running = {process.sentinel: process for process in self._processes()}
        try:
            for process in running.values():
                process.terminate()
            # Workers without work have no files, and may still be starting, when they take no signal but SIGKILL.
            end = time.monotonic() + (worker.PATIENCE if self._used else 0.0)
            while running and time.monotonic() < end:
                for ended in connection.wait(list(running), end - time.monotonic()):
                    del running[ended]
        finally:
            # Also if a second Ctrl-C comes. Files are written whole or not at all, so nothing is left half written.
            for process in running.values():
                process.kill()
            self.close()

    def _processes(self) -> list[Any]:
        return [] if self._pool is None else list((self._pool._processes or {}).values())


def _submit(pool: ProcessPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Give the pool a task; it may start a process for it, or its threads.

    Ctrl-C is put off meanwhile: in the middle of a start it would leave a process that nobody knows, or a thread that
    is waited for and never began.
    """
    with _blocked(worker.SENT_TO_ALL):
        return pool.submit(function, *arguments)


TRACKER = (
    "import os, time, warnings; os.setsid(); left = []; warnings.warn = lambda *_, **__: left.append(1); {}; "
    "left and time.sleep(0.05)"
)
"""What the tracker of multiprocessing runs around its own code, `{}`.

It gives back the semaphores that a killed command leaves, so it is the last process to end, and it must not be killed
with the command's process group: hence the session of its own. If there are such semaphores (it warns of them then),
the others are ending just now; it holds the standard streams until they are gone, so that whoever reads these to their
end finds no process left."""


@contextlib.contextmanager
def _tracker_ends_last() -> Iterator[None]:
    """Have multiprocessing start its tracker as `TRACKER` says."""
    start: Any = util.spawnv_passfds

    def start_apart(path: Any, arguments: list[str], descriptors: Any) -> int:
        *before, code = arguments
        return int(start(path, [*before, TRACKER.format(code)], descriptors))

    setattr(util, "spawnv_passfds", start_apart)  # noqa: B010 (its type is that of one function)
    try:
        yield
    finally:
        setattr(util, "spawnv_passfds", start)  # noqa: B010


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals in this thread, and for good in the processes that it starts within the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _arrow_keeps_pages() -> Iterator[None]:
    """Set `KEEP_ARROW_PAGES` for what is started in the block, unless the environment has a value of its own.

    The server that workers are forked from takes the environment of this process when it starts; it cannot be given
    another one.
    """
    name, value = KEEP_ARROW_PAGES
    # This process itself is left as it was: its own allocations are none of our business.
    given = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not given:
            del os.environ[name]
