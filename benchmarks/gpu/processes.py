"""Processes with a time limit and a limit of silence, of which none outlives this program.

Importing torch takes seconds, and a GPU that is lent for minutes would spend one of them on imports alone. So Python
commands are run in forks of this process, which has imported torch, and has not touched the GPU, before. A fork is a
process of its own in all that matters here: CUDA starts in it, and it can hang or break without harm to the others.
`Cold` starts new interpreters in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib.metadata
import io
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

ROOT = Path(__file__).resolve().parents[2]
GRACE = 3.0
"""Seconds between the signal on which a process writes where it is, and its end."""
DYING = 20.0
"""Seconds that a process may take to die: the driver first gives back what it holds of the GPU."""
TAIL = 4000
"""Characters of the output that are kept."""
FIRST_OUTPUT = 60.0
"""Seconds until the first output, where that is more than the limit of silence: a cold start reads torch from disk."""

How = Literal["exited", "quiet", "limit", "undead"]
"""How a process ended: by itself, ended for its silence, ended at its limit; or it does not die."""


@dataclass(frozen=True)
class Ended:
    how: How
    code: int
    """Exit status; negative: the signal that ended it, as in subprocess."""
    output: str
    seconds: float


class Starter(Protocol):
    """Starts the interpreter with arguments; returns the process's id and its output's file descriptor."""

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], program: Sequence[str]
    ) -> tuple[int, int]: ...


class Interrupted(BaseException):
    """This program was asked to end; the process that ran was ended."""


def watch(
    start: Starter,
    command: Sequence[str],
    environment: Mapping[str, str],
    program: Sequence[str] = (),
    *,
    limit: float,
    quiet: float,
) -> Ended:
    """Run a command to its end, or until it is silent or over its limit; then it is ended with its children."""
    started = last = time.monotonic()
    pid, out = start(command, environment, program)
    output, silence = b"", max(quiet, FIRST_OUTPUT)
    how: How = "exited"
    code: int | None = None
    try:
        while True:
            now = time.monotonic()
            left = min(started + limit, last + silence) - now
            if left <= 0:
                how = "limit" if started + limit <= now else "quiet"
                break
            # A look at the process now and then, because its children can hold the pipe open.
            if select.select([out], [], [], min(left, 0.2))[0]:
                part = os.read(out, 1 << 16)
                if not part:
                    break
                output, last, silence = (output + part)[-1 << 18 :], time.monotonic(), quiet
            elif (code := reap(pid, 0.0)) is not None:
                break
        if how != "exited":
            # Python writes where its threads are, then dies.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
            reap_after = time.monotonic() + GRACE
            while time.monotonic() < reap_after and code is None:
                output += drain(out, 0.1)
                code = reap(pid, 0.0)
        elif code is None:
            code = reap(pid, GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if code is None:
            code = reap(pid, DYING)
        output += drain(out, 0.0)
        os.close(out)
    seconds = time.monotonic() - started
    text = excerpt(output.decode(errors="replace"))
    return Ended("undead", -signal.SIGKILL, text, seconds) if code is None else Ended(how, code, text, seconds)


def excerpt(output: str) -> str:
    """The end of an output; where Python wrote its stack, with the innermost calls first, what is around its start."""
    at = output.rfind("(most recent call first)")
    if at < 0 or len(output) - at < TAIL // 2:
        return output[-TAIL:]
    return output[max(0, at - TAIL // 2) : at + TAIL // 2]


def reap(pid: int, seconds: float) -> int | None:
    """The exit status, once it is there; None where it is not within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


def drain(out: int, seconds: float) -> bytes:
    """What is there to be read."""
    found = b""
    while select.select([out], [], [], seconds)[0]:
        part = os.read(out, 1 << 16)
        if not part:
            break
        found, seconds = found + part, 0.0
    return found


class Cold:
    """Starts a new interpreter for each command."""

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], program: Sequence[str]
    ) -> tuple[int, int]:
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                [*program, sys.executable, *command],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                preexec_fn=alone,
            )
        finally:
            os.close(write)
        process.returncode = 0  # `watch` waits for it, and not this object
        return process.pid, read


class Warm:
    """Runs Python commands in forks of this process, and others as `Cold` does; to be made before the GPU is used."""

    def __init__(self) -> None:
        import numpy  # noqa: F401
        import pytest  # noqa: F401
        import torch  # noqa: F401

        for plugin in importlib.metadata.entry_points(group="pytest11"):
            with contextlib.suppress(Exception):  # one that does not load here does not load there either
                plugin.load()
        gc.freeze()  # else the first collection of each fork would write to all pages, which are copied then
        self.cold = Cold()

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], program: Sequence[str]
    ) -> tuple[int, int]:
        if program:
            return self.cold(command, environment, program)
        sys.stdout.flush()
        sys.stderr.flush()
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write)
            return pid, read
        code = 1
        try:
            os.setsid()
            alone()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.closerange(3, max(read, write) + 1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True, line_buffering=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True, line_buffering=True)
            code = become(command, environment)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)


def alone() -> None:
    """In the new process: die with the program that started it, and leave no core file."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """What `python COMMAND` does, for `-m MODULE`, `-c CODE` and a script (and -P before them); its exit status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    faulthandler.enable(file=2)
    # The package comes from the folder that has the built extension, and not from where this program took it.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("codeshell", "gpu")]:
        del sys.modules[name]
    own = {str(ROOT), str(ROOT / "benchmarks"), ""}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*paths, *(path for path in sys.path if path not in own and path not in paths)]
    words = [word for word in command if word != "-P"]
    try:
        if words[0] == "-m":
            sys.argv = [words[1], *words[2:]]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<command>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = list(words)
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0
