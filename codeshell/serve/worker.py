"""The thread that generates: one request after another, in the order in which they came.

A model on a CPU uses all cores for one text, so two at a time would each take twice as long. What waits is bounded, and
a request whose client has gone leaves the queue, or ends at its next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from codeshell.errors import say
from codeshell.model.sampling import NotFiniteError
from codeshell.model.session import Chunk, Finish, Settings
from codeshell.serve.errors import RequestError
from codeshell.serve.prompts import Prepared

Event = tuple[int, Chunk | Finish] | RequestError | None
"""What a client hears of its request: an item of a generation with its number, an error, or None for the end."""


class Generates(Protocol):
    """What the worker needs of a session; `codeshell.model.session.Session` has it."""

    def stream(
        self, prompt: Sequence[int], settings: Settings, cancelled: Callable[[], bool]
    ) -> Iterator[Chunk | Finish]: ...


class Job:
    """The generations of one request. Made in the event loop that reads its events.

    Attributes:
        events: what has come of it; the last one is None or a RequestError.
    """

    def __init__(self, pieces: Sequence[Prepared]) -> None:
        self.pieces = pieces
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.waits: Worker | None = None
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()

    def put(self, event: Event) -> None:
        """Tell the client, from any thread."""
        # The loop is closed when the server has ended; nobody listens then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def cancel(self) -> None:
        """End it, whether it waits or runs; nothing happens to one that has ended."""
        self._cancelled.set()
        if self.waits is not None:
            self.waits.forget(self)

    def cancelled(self) -> bool:
        return self._cancelled.is_set()


class Worker:
    """The thread and its queue.

    Args:
        session: what generates.
        most: requests that may wait, beside the one that runs.
    """

    def __init__(self, session: Generates, most: int) -> None:
        self._session, self._most = session, most
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._coming = 0
        self._running: Job | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        return self._running is not None

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for a request whose prompt is being encoded: a long one takes seconds, and whoever is
        not to be served costs none of them.

        Raises:
            RequestError: too many wait already, or the server is ending.
        """
        with self._changed:
            if self._stopped:
                raise _ending()
            # Whoever comes to an idle worker does not wait.
            if len(self._jobs) + self._coming >= self._most + (self._running is None):
                raise RequestError(
                    f"the server is busy: {self._most} requests wait already; try again, or start it with a larger "
                    "--queue",
                    status=503,
                    type="overloaded_error",
                    code="queue_full",
                )
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1

    def submit(self, job: Job) -> None:
        """Queue a job, inside of `place`.

        Raises:
            RequestError: the server is ending.
        """
        with self._changed:
            if self._stopped:
                raise _ending()
            job.waits = self
            self._jobs.append(job)
            self._changed.notify()

    def forget(self, job: Job) -> None:
        """Take a job that waits out of the queue."""
        with self._changed, contextlib.suppress(ValueError):
            self._jobs.remove(job)

    def close(self) -> None:
        """Take no more: what waits is told that the server is ending, and what runs may finish."""
        with self._changed:
            self._stopped = True
            waiting = list(self._jobs)
            self._jobs.clear()
            self._changed.notify()
        for job in waiting:
            job.put(_ending())

    def interrupt(self) -> None:
        """Take no more, and end what runs, which is told so as well."""
        self.close()
        running = self._running
        if running is not None:
            running.put(_ending())
            running.cancel()

    def stop(self, seconds: float = 5.0) -> None:
        """End everything, and wait for the thread."""
        self.interrupt()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._running = self._jobs.popleft()
            job.put(self._generate(job))
            # Not before the last event, so that an idle server is one whose clients have all been told.
            self._running = None

    def _generate(self, job: Job) -> RequestError | None:
        """Do a job; what to tell its client at the end."""
        try:
            for number, piece in enumerate(job.pieces):
                if job.cancelled():
                    return None
                with contextlib.closing(_generator(self._session, piece, job)) as items:
                    for item in items:
                        job.put((number, item))
        except NotFiniteError as error:
            return RequestError(f"{error}", status=500, type="server_error", code="not_finite")
        except ValueError as error:
            return RequestError(f"{error}")
        except Exception as error:
            # A fault of ours, or no memory: the server continues, and its log has the place.
            say("codeshell: a generation failed:")
            for line in traceback.format_exc().splitlines():
                say(line)
            kind = type(error).__name__
            return RequestError(
                f"the generation failed ({kind}); the server's log has more", status=500, type="server_error"
            )
        return None


def _generator(session: Generates, piece: Prepared, job: Job) -> Any:
    return session.stream(piece.ids, piece.settings, job.cancelled)


def _ending() -> RequestError:
    return RequestError("the server is ending; start it again", status=503, type="overloaded_error", code="ending")
