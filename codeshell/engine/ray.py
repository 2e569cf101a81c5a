"""The Ray engine: shards as plain tasks of a Ray cluster, or of a Ray that is started on this machine for the job.

A cluster must meet two conditions: every node has the same codeshell and the same Python packages, and sees the same
files under the same paths (NFS, Lustre, a FUSE mount). Tasks read and write files, and only their small statistics
travel through Ray. The command itself runs on a machine of the cluster.

A task whose node or worker dies is run again. The machine that was thought dead may still be writing, so a second
attempt uses temporary names of its own (`files.attempt`). The attempts write the same bytes, so it does not matter
which of them renames last. An exception of the function itself is not tried again: it is raised here, as by the local
engine. Ray sees at once that a process died; when a machine falls silent, Ray gives its tasks up after up to seven
minutes (`grpc_client_keepalive_time_ms` and `_timeout_ms` in the head node's `--system-config`).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from codeshell import __version__
from codeshell.engine import files
from codeshell.environment import usable_cores
from codeshell.errors import UserError, say

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 6
"""Attempts of one task, before the task itself is taken to be what kills its workers."""

IN_FLIGHT = 2
"""Tasks handed to Ray per CPU, so that a node finds the next one waiting."""

STORE_BYTES = 80 << 20
"""Shared memory for the object store of a Ray that we start. Ray asks for at least 75 MiB; we keep nothing there."""

POLL_SECONDS = 1.0
"""Time between two looks at the tasks that wait for their next attempt, and at the size of the cluster."""

CONNECT_SECONDS = 10.0
"""Time for the head node to accept a connection; Ray itself would try for minutes."""

CANCEL_SECONDS = 5.0
"""Time for tasks to stop when another one failed; after that their workers are killed."""


class RayEngine:
    """Tasks on a Ray cluster, one CPU each.

    Args:
        workers: tasks at a time; 0 means every CPU.
        address: `auto` or `HOST:PORT` of a running cluster, which is left running; `local` or None starts Ray on this
            machine, reachable from nowhere else, and `close` ends it. Without an address, RAY_ADDRESS is used, as
            everywhere in Ray. In a process that is already connected to Ray, that connection is used.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached or has another version of Python or Ray.
    """

    def __init__(self, workers: int = 0, address: str | None = None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._limit = workers
        self._ray = _import_ray()
        self._disconnect: Callable[[], Any] | None = None
        self._connect()
        self.workers = workers or self._cpus()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Engine.map`. Results that are ready before their turn wait here, so they should be small.

        Raises:
            UserError: a task whose worker died each of `ATTEMPTS` times; a node that lacks a module or has another
                version of codeshell.
        """
        self._connect()
        ray = self._ray
        # Ray's own retries are off: it would not tell us which attempt a task is, and the temporary names need that.
        remote = ray.remote(num_cpus=1, max_retries=0)(_call)
        # Reference of a task in flight -> index of its item.
        running: dict[Any, int] = {}
        # Attempts that each item has lost.
        attempts = [0] * len(items)
        # Index -> (ended well, result or exception), for items whose turn has not come.
        outcomes: dict[int, tuple[bool, Any]] = {}
        # (time of the next attempt, index), in order of time.
        lost: deque[tuple[float, int]] = deque()
        # Items before `submitted` have been handed out; those from `end` on are no longer of interest.
        submitted, end, capacity, looked = 0, len(items), 0, 0.0
        # The item whose result is yielded next.
        turn = 0
        try:
            while turn < end:
                # How much may be in flight now: nodes come and go.
                if time.monotonic() - looked > POLL_SECONDS:
                    capacity, looked = self._capacity(), time.monotonic()
                # Fill the cluster: first what is to be tried again, because its turn comes earlier, then new items.
                while len(running) < capacity:
                    if lost and lost[0][0] <= time.monotonic():
                        index = lost.popleft()[1]
                    elif submitted < end:
                        index, submitted = submitted, submitted + 1
                    else:
                        break
                    running[remote.remote(__version__, attempts[index], function, items[index])] = index
                # Yield what has its turn. A failure is raised in its turn too, after the results before it.
                if turn in outcomes:
                    good, value = outcomes.pop(turn)
                    if not good:
                        raise value
                    yield value
                    turn += 1
                    continue
                # Take what has ended: a result, an exception of the function, or the death of the task's worker.
                deaths: list[Exception] = []
                for reference in _finished(ray, running):
                    index = running.pop(reference)
                    try:
                        outcomes[index] = ray.get(reference)
                    except _lost(ray) as error:
                        # An error that the task raised can have the class of a lost worker's; its worker lives.
                        if isinstance(error, ray.exceptions.RayTaskError):
                            outcomes[index] = False, _explained(error)
                        elif attempts[index] + 1 < ATTEMPTS:
                            attempts[index] += 1
                            # Not at once: not every part of the cluster may know yet that the node is gone.
                            lost.append((time.monotonic() + POLL_SECONDS * attempts[index], index))
                            deaths.append(error)
                        else:
                            outcomes[index] = False, _died(error)
                    except ray.exceptions.RayError as error:
                        outcomes[index] = False, _explained(error)
                    # Nothing after a failed item is begun; the items before it still have their turn.
                    if index in outcomes and not outcomes[index][0]:
                        end = min(end, index + 1)
                if deaths:
                    lost = deque(sorted(lost))
                    say(f"ray: {len(deaths)} tasks lost ({_line(deaths[-1])}); trying again")
        except Exception:
            self._cancel(running, patience=CANCEL_SECONDS)
            raise
        finally:
            # Also when the caller stops early or presses Ctrl-C: then nothing is waited for.
            self._cancel(running, patience=0.0)

    def prepare(self, module: str) -> None:
        """Nothing: Ray has workers of its own."""

    def close(self) -> None:
        """End the Ray that this engine started, or its connection to a cluster; a later `map` connects again."""
        if self._disconnect is not None:
            self._disconnect()
            self._disconnect = None

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        ray = self._ray
        if ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            cpus = self._limit or usable_cores()
            with _loopback(), _own_sigterm():
                ray.init(
                    address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet
                )
        else:
            try:
                with _own_sigterm():
                    ray.init(address=_listening(ray, self.address), **quiet)
            except (RuntimeError, ValueError, OSError) as error:  # a ConnectionError is an OSError
                ray.shutdown()
                raise UserError(
                    f"--address {self.address}: {_line(error)}; run this on a machine of a running Ray cluster "
                    "(`ray start --head`), or leave --address out"
                ) from None
        # Whatever the settings say, Ray prints the raylet's messages on stdout: a paragraph for every lost worker.
        ray._private.worker._worker_logs_enabled = False
        # Runs when `close` calls it, when the engine is collected, or at the end of the process, and only once.
        self._disconnect = weakref.finalize(self, ray.shutdown)

    def _cpus(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _capacity(self) -> int:
        """Tasks to have in flight; it changes when nodes come and go."""
        cpus = self._cpus()
        # A limit below the CPUs is the user's wish, so nothing is queued beyond it.
        return self._limit if 0 < self._limit < cpus else cpus * IN_FLIGHT

    def _cancel(self, running: dict[Any, int], patience: float) -> None:
        """Stop what is in flight; `patience` is the seconds that functions have to clean up."""
        ray = self._ray
        references = list(running)
        running.clear()
        with contextlib.suppress(ray.exceptions.RayError):
            # Ask first: a KeyboardInterrupt in the worker, which removes its temporary files.
            if references and patience:
                for reference in references:
                    ray.cancel(reference)
                _, references = ray.wait(references, num_returns=len(references), timeout=patience)
            # Then kill the workers of those that are left, and wait until they are gone.
            for reference in references:
                ray.cancel(reference, force=True)
            if references:
                ray.wait(references, num_returns=len(references), timeout=CANCEL_SECONDS)


def _call(version: str, attempt: int, function: Callable[[Item], Result], item: Item) -> tuple[bool, Any]:
    """The task: (True, result) or (False, exception), so that Ray does not wrap what the function raises."""
    # Another version may write other bytes, and nothing later would notice.
    if version != __version__:
        where = socket.gethostname()
        return False, UserError(
            f"node {where}: it has codeshell {__version__}, and the command codeshell {version}; "
            "install the same version on every node"
        )
    try:
        with files.attempt(attempt):
            return True, function(item)
    except UserError as error:
        return False, error
    except Exception as error:
        trace = traceback.format_exc()
        # The exception itself travels if pickling gives it back; some lose their arguments, and some cannot be pickled.
        try:
            error.add_note(f"on node {socket.gethostname()}:\n{trace}")
            if type(pickle.loads(pickle.dumps(error))) is type(error):
                return False, error
        except Exception:
            pass
        return False, RuntimeError(f"{type(error).__name__}: {error}\non node {socket.gethostname()}:\n{trace}")


def _import_ray() -> Any:
    # Ray's processes read this when they start. A user who wants to report usage has set it before.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this Ray warns about tasks without a GPU; ours use none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError('--engine ray: Ray is not installed; pip install "codeshell[ray]"') from None


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Have Ray listen on 127.0.0.1 alone: its ports run any code for anyone who reaches them.

    It does so by itself on macOS and Windows; elsewhere it replaces 127.0.0.1, even as an argument.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the caller's handler of SIGTERM: `ray.init` sets one that ends the process with code 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Python lets only the main thread set handlers, and Ray has set none in another one.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _listening(ray: Any, address: str) -> str:
    """The HOST:PORT that Ray makes of an address, if something listens there; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or not port.isdigit() or "/" in host):
        raise UserError(f"--address {address}: give auto, local, or HOST:PORT of the head node")
    found = str(ray._private.services.canonicalize_bootstrap_address_or_die(address))
    host, _, port = found.rpartition(":")
    # One connection, closed at once: it only shows that the port answers.
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address}: no Ray at {found} ({error}); `ray status` on the head node shows its address"
        ) from None
    return found


def _finished(ray: Any, running: dict[Any, int]) -> list[Any]:
    """The references that are ready, after a short wait for one of them."""
    references = list(running)
    if not references:
        time.sleep(POLL_SECONDS / 10)
        return []
    ready, _ = ray.wait(references, num_returns=1, timeout=POLL_SECONDS)
    # One is ready: take all the others that are, without waiting.
    if ready:
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
    return list(ready)


def _lost(ray: Any) -> tuple[type[Exception], ...]:
    """The errors that a task ends with when the machine under it failed, not its function."""
    errors = ray.exceptions
    return (
        errors.WorkerCrashedError,
        errors.NodeDiedError,
        errors.OutOfMemoryError,
        errors.ObjectLostError,
        errors.RaySystemError,
    )


def _died(error: Exception) -> Exception:
    return UserError(
        f"a worker process died {ATTEMPTS} times at the same task (killed, or out of memory; Ray says: {_line(error)})"
        "; run again to resume, with fewer --workers if memory is short"
    )


def _explained(error: Exception) -> Exception:
    """The exception to raise for an error of Ray that another attempt would not fix."""
    missing = [line.strip() for line in str(error).splitlines() if "ModuleNotFoundError:" in line]
    if missing:
        return UserError(
            f"a Ray node cannot import what the task needs ({missing[-1]}); install the same codeshell on every node"
        )
    return error


def _line(error: Exception) -> str:
    """The first sentence of an error as one line."""
    text = " ".join(str(error).split())
    return text.split(". ")[0].rstrip(".")[:300] or type(error).__name__
