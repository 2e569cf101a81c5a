"""The watch of several ranks: none of them waits for ever for one that has ended.

A rank that waits in a collective cannot look around, and on a GPU nothing wakes it. So each rank has a thread that
tells the common store every moment that the process is alive (its *beat*), and reads whether some rank has failed. The
first failure is that of all: one rank prints it, and every process ends. A rank that dies without a word is found by
its beat, which stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from codeshell.train.launch import TIMEOUT, Place, Timeouts

BEAT = 0.25
"""Seconds between two beats."""

SILENCE = 12
"""Beats without a sign, after which a rank that others miss counts as dead."""

GRACE = 3.0
"""Seconds that the main thread has to end by itself once a failure is known. One that waits for a GPU cannot."""

PARTING = 5.0
"""Seconds that rank 0 waits until the others have read the failure: its process may hold the store."""

FAILED = "failed"


class Failure(NamedTuple):
    """Why all ranks end: one line, and the ranks that died without a word."""

    words: str
    lost: tuple[int, ...] = ()


class Watch:
    """The thread of one rank, from its making to `close`.

    Args:
        where: the rank.
        host: its machine's name.
        limits: how long a step may take.

    Attributes:
        on_failure: called by the thread before it ends the process in the main thread's place.
    """

    def __init__(self, where: Place, host: str, limits: Timeouts) -> None:
        self.where, self.host, self.limits = where, host, limits
        self.on_failure: Callable[[Failure], None] = lambda failure: None
        self._doing, self._since, self._limit = "the start", time.monotonic(), limits.first
        self._closed = threading.Event()
        # Held by whoever ends this process: the main thread, or this one in its place.
        self._ending = threading.Lock()
        self._store = self._connect()
        self._beat(0)
        self._thread = threading.Thread(target=self._work, daemon=True, name="watch")
        self._thread.start()

    def mark(self, doing: str, patience: float = 1.0) -> None:
        """Tell what the main thread does from now on, and how many times the usual time it may take."""
        self._doing, self._since, self._limit = doing, time.monotonic(), patience * self.limits.later

    def take_over(self) -> None:
        """Let the main thread end this process; if the watch does so already, wait for that."""
        if not self._ending.acquire(blocking=False):
            time.sleep(2 * PARTING)

    def fail(self, failure: Failure) -> Failure:
        """Make this the failure of all ranks, unless there is one already; return that of all."""
        with contextlib.suppress(Exception):
            return _read(self._store.compare_set(FAILED, "", json.dumps(failure)))
        return failure

    def explain(self, *, quick: bool = False) -> Failure | None:
        """Why a collective has failed, or this rank is to end; None if all the others are there and well.

        It waits until some rank has said why, or some have given no sign for `SILENCE` beats.

        Args:
            quick: wait for a third of that time, only to hear whether another rank has said why.
        """
        try:
            before = self._beats()
            for _ in range(SILENCE // 3 if quick else SILENCE):
                time.sleep(BEAT)
                if self._store.check([FAILED]):
                    return _read(self._store.get(FAILED))
            if quick:
                return None
            now = self._beats()
            silent = [rank for rank, (beat, _) in enumerate(now) if beat == before[rank][0]]
            return self.fail(self._lost(silent, now)) if silent else None
        except Exception:  # the store is in rank 0's process or in the launcher's, and that is gone
            return self._without_store()

    def speaks(self, failure: Failure) -> bool:
        """Whether this rank is the one that prints the failure: rank 0, or the first that is left."""
        if failure.lost == (0,):
            # Without a store the ranks know no more of one another.
            return self.where.rank == 1 or self.where.local_rank == 0
        return self.where.rank == min(set(range(self.where.world)) - set(failure.lost))

    def part(self, failure: Failure) -> None:
        """Say that this rank has read the failure; rank 0 waits for that of the others."""
        with contextlib.suppress(Exception):
            self._store.set(f"read/{self.where.rank}", "1")
            if self.where.rank == 0:
                names = [f"read/{rank}" for rank in range(1, self.where.world) if rank not in failure.lost]
                end = time.monotonic() + PARTING
                while names and time.monotonic() < end and not self._store.check(names):
                    time.sleep(BEAT / 5)

    def close(self) -> None:
        """End the thread; from here on nobody watches."""
        self._closed.set()
        self._thread.join()

    def _connect(self) -> Any:
        """A connection to the process group's store that is the watch's own, below a name of its own."""
        from torch._C._distributed_c10d import PrefixStore, TCPStore

        # A launcher's store outlives the ranks, which it may start again.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        address, port = self.where.address, self.where.port
        patience = timedelta(seconds=PARTING)
        store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=patience)
        return PrefixStore(f"codeshell/{attempt}", store)

    def _beat(self, number: int) -> None:
        self._store.set(f"beat/{self.where.rank}", json.dumps([number, self.host, os.getpid()]))

    def _beats(self) -> list[tuple[int, str]]:
        """The number of each rank's last beat, and its words: which process it is, on which machine."""
        beats = self._store.multi_get([f"beat/{rank}" for rank in range(self.where.world)])
        rows = [json.loads(beat) for beat in beats]
        return [
            (number, f"rank {rank} (process {process} on {host})") for rank, (number, host, process) in enumerate(rows)
        ]

    def _lost(self, silent: list[int], beats: list[tuple[int, str]]) -> Failure:
        more = f" and {len(silent) - 1} more ranks" if len(silent) > 1 else ""
        return Failure(
            f"train: {beats[silent[0]][1]}{more} ended without a word while rank {self.where.rank} was in "
            f"{self._doing}; was it killed, or out of memory? All ranks have stopped; run the same command again to "
            "resume from the last checkpoint",
            tuple(silent),
        )

    def _without_store(self) -> Failure:
        return Failure(
            f"train: rank 0 or the launcher ended without a word while rank {self.where.rank} on {self.host} was in "
            f"{self._doing}; all ranks have stopped; run the same command again to resume from the last checkpoint",
            (0,),
        )

    def _work(self) -> None:
        number = 0
        failure: Failure | None = None
        # For rank 0: the last beat of each rank, and when it was new.
        seen = [(-1, time.monotonic())] * self.where.world
        while failure is None and not self._closed.wait(BEAT):
            number += 1
            try:
                self._beat(number)
                if self._store.check([FAILED]):
                    failure = _read(self._store.get(FAILED))
                # One rank looks at all beats, now and then: a machine that left the network says nothing at all.
                elif self.where.rank == 0 and number % SILENCE == 0:
                    failure = self._overdue(seen)
            except Exception:
                failure = self._without_store()
            waited = time.monotonic() - self._since
            if failure is None and waited > self._limit:
                words = f"rank {self.where.rank} on {self.host} has been in {self._doing} for {waited:.0f} s"
                remedy = f"all ranks have stopped; for more time set {TIMEOUT} to the seconds that a step may take"
                failure = self.fail(Failure(f"train: {words}; {remedy}"))
        if failure is not None:
            self._end(failure)

    def _overdue(self, seen: list[tuple[int, float]]) -> Failure | None:
        """The failure of ranks whose beat has not changed for the time of a step; `seen` is brought up to date."""
        now, beats = time.monotonic(), self._beats()
        for rank, (beat, _) in enumerate(beats):
            if beat != seen[rank][0]:
                seen[rank] = (beat, now)
        silent = [rank for rank, (_, when) in enumerate(seen) if now - when > self.limits.later]
        return self.fail(self._lost(silent, beats)) if silent else None

    def _end(self, failure: Failure) -> None:
        """End the process, if the main thread does not do it by itself in a moment."""
        if self._closed.wait(GRACE) or not self._ending.acquire(blocking=False):
            return
        with contextlib.suppress(Exception):
            self.on_failure(failure)
        self.part(failure)
        os._exit(2)


def _read(data: bytes) -> Failure:
    words, lost = json.loads(data)
    return Failure(words, tuple(lost))
