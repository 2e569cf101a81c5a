"""The start of a fork server for Python programs in a sandbox of its own."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from pathlib import Path

from codeshell import _C
from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox import launch, probe, values
from codeshell.evaluate.sandbox.levels import Level

__all__ = ["Server", "start"]

PACKAGE = Path(__file__).resolve().parents[2]

INSIDE = (
    "values",
    "python_candidate",
    "python_names",
    "python_server",
    "python_tests",
)
"""The modules of this folder that run inside. A program never sees their files: its working folder is a fresh one."""

OWN_MEMORY = 256 << 20
"""Bytes of a sandbox beyond the limit of its programs: the interpreter of the server, and its files."""

START_SECONDS = 60.0
"""Seconds that a server may take to be ready: 0.1 s usually, more on a machine with much else to do."""


class Server:
    """A fork server that runs."""

    def __init__(self, running: launch.Running, control: socket.socket) -> None:
        self.control = control
        """Its socket: requests go in, replies come out."""
        self._running = running

    def kill(self) -> None:
        """End its processes; a program that runs in it ends with it."""
        self._running.kill()

    def end(self) -> None:
        """End the sandbox with all that is in it."""
        self.control.close()
        self._running.close()

    def fate(self, seconds: float) -> int | None:
        """The signal that ended the server, if one did so within `seconds`."""
        outcome = self._running.wait(seconds)
        return outcome.signal if outcome else None


def start(level: Level, limits: Limits) -> Server:
    """Start a server and wait until it is ready.

    Args:
        level: what `levels.require` has proven.
        limits: of all that runs in it at a time.

    Raises:
        UserError: the machine refuses the sandbox, or there is no interpreter in it.
    """
    near, far = socket.socketpair()
    running: launch.Running | None = None
    with far:
        try:
            command = launch.Command(
                # As with -I, nothing of the environment or the user's folders is imported; but the seed of hashes,
                # which decides the order of sets, is the same each time. -S: no packages.
                [probe.python_program(level), *("-s", "-S", "-P", "-B"), "start.py", str(far.fileno())],
                files=_files(),
                binds=probe.python_binds(),
                environment={"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": ""},
                limits=replace(limits, memory=limits.memory + OWN_MEMORY, file_bytes=max(limits.file_bytes, 64 << 20)),
                pass_fds=[far.fileno()],
                server=True,
            )
            running = launch.start(command, level)
        except BaseException:
            near.close()
            raise
    try:
        near.settimeout(START_SECONDS)
        ready = values.receive(near)
        if ready is None:
            outcome = running.wait(1.0)
            last = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2] if outcome else ""
            raise UserError(f"the Python of the sandbox did not start ({last or 'no message'}); level {int(level)}")
        near.settimeout(None)
    except TimeoutError:
        _end(near, running)
        raise UserError(
            f"the Python of the sandbox is not ready after {START_SECONDS:.0f} s; is the machine overloaded?"
        ) from None
    except BaseException:
        _end(near, running)
        raise
    return Server(running, near)


def _end(control: socket.socket, running: launch.Running) -> None:
    control.close()
    with contextlib.suppress(RuntimeError):
        running.close()


def _files() -> dict[str, bytes]:
    """The package as the server needs it: a few modules, and the extension, which forks and confines."""
    folder = "lib/codeshell/"
    found = {
        f"{folder}evaluate/sandbox/{name}.py": (PACKAGE / "evaluate" / "sandbox" / f"{name}.py").read_bytes()
        for name in INSIDE
    }
    found |= {f"{folder}{part}__init__.py": b"" for part in ("", "evaluate/", "evaluate/sandbox/")}
    extension = Path(str(_C.__file__))
    found[folder + extension.name] = extension.read_bytes()
    found["start.py"] = (
        b"import os, sys\nsys.path.insert(0, os.path.abspath('lib'))\n"
        b"from codeshell.evaluate.sandbox import python_server\npython_server.main()\n"
    )
    return found
