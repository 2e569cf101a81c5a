"""The fork server inside the sandbox: it starts a process of its own for each program, watches it, and ends it.

There are two servers, each in a sandbox of its own: one for candidates, one for tests. A server has imported what
programs usually import, so that a program costs a fork and not the start of an interpreter. Each program runs in new
pid, mount and ipc namespaces with fresh folders, under its limits and without capabilities
(`_C.sandbox.fork_program`); when its first process ends, the system ends all others of it.

Candidates always have a process of their own. Tests have one, too, unless they are plainly unable to leave something
for the tests after them (`python_names.Needs.leaves_nothing`): these run in their server. Half of the cost of a program
is its processes, mostly page faults after a fork.

Requests come on the control socket, a message of `values` with open files:

    {"role": "candidate", "code": …, limits}                  with: lifeline, channel to the tests, output
    {"role": "tests", "tests": …, "setup": …, …, limits}      with: lifeline, channel to the candidate, output, reports

The program is ended when the other end of its lifeline is closed, whatever became of the controller. The reply is a
dict: status, signal, cause ("ended", "stopped", "cpu_time", "wall_time", "memory"), cpu_seconds and peak_memory.

This file runs inside the sandbox and imports the standard library and the extension only.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import math
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from codeshell import _C
from codeshell.evaluate.sandbox import python_candidate, python_names, python_tests, values

USUAL = (
    *("abc", "array", "ast", "bisect", "calendar", "cmath", "collections.abc", "contextlib", "copy", "ctypes"),
    *("dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io"),
    *(
        "itertools",
        "json",
        "linecache",
        "math",
        "numbers",
        "operator",
        "queue",
        "random",
        "re",
        "reprlib",
        "statistics",
    ),
    *("string", "struct", "sys", "textwrap", "threading", "time", "traceback", "typing", "unicodedata"),
)
"""What candidates import most. Others cost their import."""

TICK = 0.05
"""Seconds between two looks at the CPU time and the memory of a program."""

GRACE = 1.0
"""CPU seconds beyond its limit after which the system kills a process by itself."""


def _child(request: dict[str, Any], files: list[int]) -> NoReturn:
    """The new process: standard streams, then candidate or tests."""
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(files[1], 1)
        os.dup2(files[1], 2)
        os.close(null)
        os.close(files[1])
        channel = socket.socket(fileno=files[0])
        if request["role"] == "candidate":
            # Whoever draws random numbers gets the same ones each time, so that a verdict can be had again.
            random.seed(0)
            python_candidate.serve(channel, request["code"])
        python_tests.judge(channel, socket.socket(fileno=files[2]), request, python_tests.analysed(request))
        os._exit(0)
    finally:
        os._exit(1)


def _judge_here(request: dict[str, Any], files: list[int], needs: python_names.Needs) -> dict[str, Any]:
    """Run tests that leave nothing in this process, which saves them a fork; the reply."""
    before, seconds = time.process_time(), request["cpu_seconds"]

    def too_long(*_: object) -> NoReturn:
        raise python_tests.TestsTooLongError(f"the tests used more than {seconds:g} s of CPU time")

    # The handler runs between two instructions of Python. A single one that takes long, such as building a set of
    # numbers with one hash, is ended with the server by the system's own limit; the controller starts another.
    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(before + seconds + GRACE / 4), most))
    channel, output, reports = files
    os.close(output)
    with socket.socket(fileno=channel) as asks, socket.socket(fileno=reports) as tells:
        python_tests.judge(asks, tells, request, needs)
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent = time.process_time() - before
    return {"status": 0, "signal": None, "cause": "ended", "cpu_seconds": spent, "peak_memory": 0}


def _own_usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of one process, for levels at which others are in sight, too. Where /proc is
    closed, the system's own limits of the process are left."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # utime, stime, cutime and cstime are fields 14 to 17, pages field 24; the name in field 2 may hold spaces.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _watch(lifeline: int, pid: int, request: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of a program, or end it; what became of it."""
    started = time.monotonic()
    deadline = started + request["wall_seconds"]
    cause, cpu, peak = "ended", 0.0, 0
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(lifeline, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(TICK * 1000)}
            if pidfd in ready:
                break
            if lifeline in ready:
                cause = "stopped"
                break
            cpu, memory = _C.sandbox.program_usage() if request["namespaces"] else _own_usage(pid)
            peak = max(peak, memory)
            if cpu >= request["cpu_seconds"]:
                cause = "cpu_time"
            elif memory > request["memory"]:
                cause = "memory"
            elif time.monotonic() >= deadline:
                cause = "wall_time"
            if cause != "ended":
                break
    finally:
        os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, spent = os.wait4(pid, 0)
    own = spent.ru_utime + spent.ru_stime
    code = os.waitstatus_to_exitcode(status)
    if cause == "ended" and code < 0 and own >= request["cpu_seconds"]:
        cause = "cpu_time"
    return {
        "status": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "cause": cause,
        "cpu_seconds": max(cpu, own),
        "peak_memory": max(peak, spent.ru_maxrss * 1024),
    }


def serve(control: socket.socket) -> None:
    """Answer requests until the controller is gone."""
    while True:
        # The descriptors come with the first bytes of a message.
        first, files, _, _ = socket.recv_fds(control, 4, 4)
        if not first:
            return
        lifeline, *files = files
        data = values.rest(control, first)
        if data is None:
            return
        request = values.decode(data)
        del data
        needs = python_tests.analysed(request) if request["role"] == "tests" else ""
        if isinstance(needs, python_names.Needs) and needs.leaves_nothing:
            reply = _judge_here(request, files, needs)
        else:
            pid = _C.sandbox.fork_program(
                cpu_seconds=request["cpu_seconds"] + GRACE,
                address_space=request["memory"],
                processes=request["processes"],
                file_bytes=request["file_bytes"],
                files=request["files"],
                keep_fds=files,
                namespaces=request["namespaces"],
            )
            if pid == 0:
                _child(request, files)
            for descriptor in files:
                os.close(descriptor)
            reply = _watch(lifeline, pid, request)
        del request
        os.close(lifeline)
        values.send(control, values.encode(reply))


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in USUAL:
        importlib.import_module(name)
    # Nothing of the environment or of this package is for programs.
    sys.path[:] = [folder for folder in sys.path if folder.startswith(sys.base_prefix)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "codeshell"]:
        del sys.modules[name]
    sys.argv = [""]
    # Programs expect these; `site`, which has them, would look for packages.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    # Line by line: what a program printed before it was killed is not lost.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    # What is alive now lives for ever; a collection in a child would copy its pages for nothing.
    gc.collect()
    gc.freeze()
    values.send(control, values.encode({"ready": os.getpid()}))
    # The first use of the parser and of the modules above writes to pages that all children would copy.
    python_names.needs("assert f(1) == [2]", "", "", "f")
    serve(control)


if __name__ == "__main__":
    main()
