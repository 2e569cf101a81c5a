"""The judge of Python programs: the candidate runs in one sandbox, the tests in another, and this process in neither.

Most harnesses execute candidate and tests in one process, which a candidate can talk into "passed" in many ways: leave
with status 0, return an object that is equal to everything, read what is expected from the caller's frames. Here the
candidate's process holds the candidate alone. The tests call stubs, which send builtin values and get builtin values
back (`values`, `python_tests`, `python_candidate`).

Both processes are children of fork servers that live as long as the judge (`python_server`), each in a sandbox of its
own. This process, outside, only connects them, waits, drains the output, and reads a report of three strings.

A few problems have tests that need the candidate's own classes (MBPP 367, 601, 927) or pass a type or a function
(533). They are judged in one process, sandboxed all the same, and are marked `mode="same-process"`: a candidate that
knows this judge can fool it there. Which problems these are is decided by the tests alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox import values
from codeshell.evaluate.sandbox.levels import Level
from codeshell.evaluate.sandbox.python_launch import Server, start
from codeshell.evaluate.verdicts import Judged, Verdict, one_line, tail

__all__ = ["PythonJudge", "version"]

NET = 20.0
"""Seconds beyond the wall limit after which the servers themselves are taken for broken."""

LAST_WORDS = 1.0
"""Seconds that a process whose channel closed has to end by itself, so that its status is known."""


def version() -> str:
    """The interpreter that programs run with: "CPython 3.11.7"."""
    return f"{platform.python_implementation()} {platform.python_version()}"


class _BrokenError(Exception):
    """A server died or does not answer."""


class _Report(NamedTuple):
    """What the process with the tests said."""

    verdict: str
    """A `Verdict`, or "ended" (the candidate's process went away) or "same-process" (it must be judged so)."""
    why: str
    mode: str


@dataclass
class _Seen:
    """What is known of one run."""

    report: _Report | None = None
    candidate: dict[str, Any] | None = None
    tests: dict[str, Any] | None = None
    output: bytes = b""
    drained: int = 0
    flooded: bool = False


class PythonJudge:
    """Judges Python programs one after another. Each worker thread has one of its own.

    Args:
        level: the level of isolation, which the caller has proven (`levels.require`).
        limits: how much the sandboxes may hold in all; each program has its own limits below that.

    Raises:
        UserError: a sandbox does not start.
    """

    def __init__(self, level: Level, limits: Limits | None = None) -> None:
        self.level = Level(level)
        self._limits = limits or Limits()
        self._servers: tuple[Server, Server] | None = None
        self._null = os.open(os.devnull, os.O_RDWR)

    def __enter__(self) -> PythonJudge:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End both sandboxes, with all that runs in them."""
        self._end_servers()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    def judge(self, program: Program) -> Judged:
        """Run one program and its tests; the verdict.

        Raises:
            UserError: the sandboxes do not start.
        """
        judged = self._judge(program, same_process=False)
        return judged if judged is not None else self._judge(program, same_process=True) or self._lost()

    def _judge(self, program: Program, same_process: bool) -> Judged | None:
        """The verdict; None if the tests turn out to need the candidate's process."""
        limits = {name: getattr(program.limits, name) for name in _LIMITS}
        limits["namespaces"] = self.level >= Level.NAMESPACES
        try:
            candidate = values.encode({"role": "candidate", "code": program.code, **limits})
            parts = {name: getattr(program, name) for name in ("tests", "setup", "helpers", "entry_point")}
            tests = values.encode({"role": "tests", **parts, "same_process": same_process, **limits})
        except values.ValueRefusedError as error:
            return self._judged(Verdict.NOT_RUN, f"the program is too large: {error}")
        # A server that dies under a program gets a second chance: it may have been somebody else's doing.
        for _ in range(2):
            try:
                seen = self._run(candidate, tests, program.limits)
            except _BrokenError:
                # Tests that run in their server can end it: by one instruction that takes for ever on what they got.
                too_long = self._servers is not None and self._servers[1].fate(0.5) == signal.SIGXCPU
                self._end_servers()
                if too_long:
                    seconds = program.limits.cpu_seconds
                    return self._judged(Verdict.CPU_TIME, f"the tests used more than {seconds:g} s on the answers")
                continue
            except BaseException:
                # Ctrl-C: what runs is ended, and the servers may be in the middle of a message.
                self._end_servers()
                raise
            if seen.report and seen.report.verdict == "same-process" and not same_process:
                return None
            return self._conclude(seen, program.limits)
        return self._lost()

    def _lost(self) -> Judged:
        return self._judged(Verdict.EXCEPTION, "the sandbox did not survive the program, twice")

    def _run(self, candidate: bytes, tests: bytes, limits: Limits) -> _Seen:
        """Start both sides, wait until both have ended, and close everything.

        Raises:
            _BrokenError: a server is gone or does not answer.
        """
        candidates, judges = self._started()
        ours, theirs = _Files(), _Files()
        try:
            to_tests, to_candidate = theirs.keep(*_pair())
            reports, far_reports = _pair()
            ours.keep(reports), theirs.keep(far_reports)
            output, far_output = os.pipe()
            ours.keep(output), theirs.keep(far_output)
            far_lifelines, lifelines = zip(os.pipe(), os.pipe(), strict=True)
            ours.keep(*lifelines), theirs.keep(*far_lifelines)
            try:
                values.send(candidates.control, candidate, [far_lifelines[0], to_tests, far_output])
                values.send(judges.control, tests, [far_lifelines[1], to_candidate, self._null, far_reports])
            except OSError:
                raise _BrokenError from None
            # What the servers have is closed here, or the end of a process would not be seen.
            theirs.close()
            return _wait(candidates.control, judges.control, reports, output, lifelines, ours, limits)
        finally:
            theirs.close()
            ours.close()

    def _conclude(self, seen: _Seen, limits: Limits) -> Judged:
        """The verdict on what was seen."""
        assert seen.candidate and seen.tests
        verdict, why, mode = seen.report or _Report(*_silent_tests(seen.tests, limits))
        if seen.flooded:
            verdict, why = Verdict.OUTPUT, f"more than {limits.drained_output >> 20} MiB of output"
        elif verdict == "ended":
            verdict, why = _end_of(seen.candidate, limits)
        return self._judged(Verdict(verdict), why, tail(seen.output), float(seen.candidate["cpu_seconds"]), mode=mode)

    def _judged(self, verdict: Verdict, why: str, output: str = "", seconds: float = 0.0, mode: str = "") -> Judged:
        return Judged(verdict, one_line(why), output, seconds, int(self.level), version(), mode)

    def _started(self) -> tuple[Server, Server]:
        """The servers. Where programs have no namespaces of their own, each program gets new ones."""
        if self._servers and self.level < Level.NAMESPACES:
            self._end_servers()
        if self._servers is None:
            candidates = start(self.level, self._limits)
            try:
                self._servers = candidates, start(self.level, self._limits)
            except BaseException:
                candidates.end()
                raise
        return self._servers

    def _end_servers(self) -> None:
        servers, self._servers = self._servers, None
        for server in servers or ():
            server.end()


_LIMITS = ("cpu_seconds", "wall_seconds", "memory", "processes", "file_bytes", "files")


class _Files:
    """Descriptors that are closed together, each once."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def keep(self, *descriptors: int) -> tuple[int, ...]:
        self._open.update(descriptors)
        return descriptors

    def close(self, *descriptors: int) -> None:
        """Close these, or all."""
        for descriptor in descriptors or tuple(self._open):
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)


def _pair() -> tuple[int, int]:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _wait(
    candidates: socket.socket,
    judges: socket.socket,
    reports: int,
    output: int,
    lifelines: Sequence[int],
    ours: _Files,
    limits: Limits,
) -> _Seen:
    """Drain the output and wait for the report and the ends of both processes.

    Raises:
        _BrokenError: a server is gone, or does not answer in time.
    """
    seen = _Seen()
    waiting = select.poll()
    for source in (candidates.fileno(), judges.fileno(), reports, output):
        waiting.register(source, select.POLLIN)
    deadline = time.monotonic() + limits.wall_seconds + NET
    last_words = float("inf")
    while seen.candidate is None or seen.tests is None:
        now = time.monotonic()
        if now >= last_words:
            ours.close(lifelines[0])
            last_words = float("inf")
        if now >= deadline:
            raise _BrokenError
        for source, _ in waiting.poll(max(0.0, min(deadline, last_words) - now) * 1000 + 1):
            if source == output:
                part = os.read(output, 1 << 16)
                seen.output = (seen.output + part)[-limits.kept_output :]
                seen.drained += len(part)
                if not part:
                    waiting.unregister(output)
                elif seen.drained > limits.drained_output and not seen.flooded:
                    seen.flooded = seen.report is None
                    ours.close(lifelines[0])
            elif source == reports:
                waiting.unregister(reports)
                seen.report = seen.report or _read_report(reports)
                # A process that went away is left to end by itself for a moment; what has its verdict ends now.
                if seen.report and seen.report.verdict != "ended":
                    ours.close(lifelines[0])
                elif seen.report:
                    last_words = time.monotonic() + LAST_WORDS
            elif source == candidates.fileno():
                seen.candidate = _read_reply(candidates)
                waiting.unregister(candidates)
            else:
                seen.tests = _read_reply(judges)
                waiting.unregister(judges)
                # Without a report the candidate would wait for ever.
                if seen.report is None:
                    seen.report = _read_report(reports)
                    ours.close(lifelines[0])
    _drain(output, seen, limits)
    return seen


def _drain(output: int, seen: _Seen, limits: Limits) -> None:
    """What is left in the pipe once its writers are dead."""
    os.set_blocking(output, False)
    with contextlib.suppress(BlockingIOError):
        while part := os.read(output, 1 << 16):
            seen.output = (seen.output + part)[-limits.kept_output :]


def _read_report(reports: int) -> _Report | None:
    """The report of the tests' process; None if it ended without one."""
    with contextlib.suppress(values.ValueRefusedError, OSError), socket.socket(fileno=os.dup(reports)) as source:
        source.settimeout(NET)
        data = values.receive(source)
        match values.decode(data) if data else None:
            case (str(verdict), str(why), str(mode)) if verdict in _REPORTED:
                return _Report(verdict, why, mode)
    return None


_REPORTED = {*(verdict.value for verdict in Verdict), "ended", "same-process"}


def _read_reply(control: socket.socket) -> dict[str, Any]:
    """The reply of a server.

    Raises:
        _BrokenError: there is none.
    """
    try:
        data = values.receive(control)
        reply = values.decode(data) if data else None
    except (values.ValueRefusedError, OSError):
        raise _BrokenError from None
    if type(reply) is not dict or not reply.keys() >= {"status", "signal", "cause", "cpu_seconds"}:
        raise _BrokenError
    return reply


def _silent_tests(tests: dict[str, Any], limits: Limits) -> tuple[str, str, str]:
    """The verdict where the process with the tests ended without a report."""
    if tests["cause"] == "cpu_time":
        return ("cpu_time", f"the tests used more than {limits.cpu_seconds:g} s of CPU time on the answers", "")
    if tests["cause"] == "wall_time":
        return ("wall_time", f"the tests took more than {limits.wall_seconds:g} s", "")
    if tests["cause"] == "memory" or tests["signal"] == signal.SIGKILL:
        return ("memory", "the tests had not enough memory for the answers", "")
    return ("exception", f"the process with the tests ended with {_named_end(tests)}", "")


def _end_of(candidate: dict[str, Any], limits: Limits) -> tuple[str, str]:
    """The verdict where the candidate's process went away before the tests were at their end."""
    cause, ended_by = candidate["cause"], candidate["signal"]
    if cause == "cpu_time" or (ended_by is not None and candidate["cpu_seconds"] >= limits.cpu_seconds):
        return ("cpu_time", f"more than {limits.cpu_seconds:g} s of CPU time")
    if cause == "wall_time":
        return ("wall_time", f"more than {limits.wall_seconds:g} s, {candidate['cpu_seconds']:.1f} s of it CPU time")
    if cause == "memory":
        return ("memory", f"more than {limits.memory >> 20} MiB of memory")
    if cause == "stopped" and ended_by == signal.SIGKILL:
        return ("early_exit", "it closed its channel to the tests and lived on")
    if ended_by == signal.SIGKILL:
        return ("memory", "the system ended it, which it does where memory runs out")
    if ended_by is not None:
        return ("exception", f"the process ended with {_named_end(candidate)}")
    return ("early_exit", f"the process ended with {_named_end(candidate)} before the tests did")


def _named_end(process: dict[str, Any]) -> str:
    if process["signal"] is None:
        return f"status {process['status']}"
    with contextlib.suppress(ValueError):
        return signal.Signals(process["signal"]).name
    return f"signal {process['signal']}"
