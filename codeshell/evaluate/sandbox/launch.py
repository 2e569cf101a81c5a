"""Running a program in a sandbox: what it gets, what it may use, what came of it.

A program sees a root of its own: the system's folders read-only, a working folder in memory with limits on bytes and
files, its own processes only, no network. `run` does one command, `Session` several in one sandbox (compile, then run
the result), `start` returns while the program runs. When any of them ends nothing is left, and that is checked: a
process, control group or folder that stays is a RuntimeError.

    outcome = run(Command(["/usr/bin/gcc", "-o", "a", "a.c"], files={"a.c": source}), level)

At levels 1 and 2 there is no root of its own; the working folder is a folder of the machine, `Session.folder`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from codeshell import _C
from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox import refusals
from codeshell.evaluate.sandbox.isolation import Level
from codeshell.evaluate.sandbox.system import NOBODY, Bind, system_binds

__all__ = ["Bind", "Command", "Outcome", "Running", "Session", "run", "start", "stop_all"]

Cause = Literal["ended", "cpu_time", "wall_time", "memory", "output", "processes", "killed"]


@dataclass(frozen=True)
class Command:
    """One program to run, with all that it gets."""

    argv: Sequence[str]
    """argv[0] is a path inside, or a name that is looked up in the environment's PATH."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Written into the working folder before the start; names may have folders."""
    binds: Sequence[Bind] = ()
    """Folders and files of the machine, beyond the system's."""
    root: str | None = None
    """A folder that is used as the root in place of the system's: a toolchain of another release."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to PATH, HOME, TMPDIR, LANG and PYTHONUNBUFFERED. Nothing of this process's environment goes in."""
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    pass_fds: Sequence[int] = ()
    """Open descriptors of this process, 3 to 511, that the program gets under the same numbers."""
    address_space: bool = True
    """Limit the address space of each process to `limits.memory`. Node, Java and Julia reserve more than they use."""
    server: bool = False
    """A program of ours that forks programs inside (`_C.sandbox.fork_program`): it keeps the capabilities of its own
    user namespace and has no limits of its own. Never for a program that a model wrote."""
    keep_output: bool = True
    """Drain both streams and keep their ends; otherwise they go to /dev/null."""


@dataclass(frozen=True)
class Outcome:
    """What came of a program."""

    status: int | None
    """Its exit status; None if a signal ended it."""
    signal: int | None
    """The signal that ended it."""
    cause: Cause
    """Why it ended: by itself, or by which limit."""
    stdout: bytes
    """The end of it: `limits.kept_output` bytes."""
    stderr: bytes
    output_bytes: int
    """Bytes of both streams, with those that were not kept."""
    cpu_seconds: float
    """CPU time of all its processes."""
    wall_seconds: float
    peak_memory: int
    """Bytes: of the sandbox at level 4, else of the largest process."""
    killed: int = 0
    """Processes that were still there when the first one ended."""


_LIVE: weakref.WeakSet[Session] = weakref.WeakSet()
_LIVE_LOCK = threading.Lock()
_STOPPED = threading.Event()


def stop_all() -> None:
    """End what runs in every sandbox of this process, for Ctrl-C: `run` and `wait` return with the cause "killed", and
    later starts raise until `resume` is called. Callable from any thread."""
    _STOPPED.set()
    with _LIVE_LOCK:
        live = list(_LIVE)
    for session in live:
        session.kill()


def resume() -> None:
    """Allow starts again after `stop_all`."""
    _STOPPED.clear()


class Session:
    """One sandbox for several commands, one after the other.

    Processes that a command leaves are killed at its end; files stay until the session ends. A session belongs to the
    thread that opens it: the kernel ends the sandbox with that thread.

    Args:
        level: what `levels.require` has proven.
        limits: of the working folder and, at level 4, of the memory of all commands together.
        binds: beyond the system's folders.
        root: a folder used as the root in place of the system's.
        server: see `Command.server`.

    Raises:
        UserError: the machine refuses the sandbox. It names the cause and the remedy.
    """

    def __init__(
        self,
        level: Level,
        limits: Limits | None = None,
        binds: Sequence[Bind] = (),
        root: str | None = None,
        *,
        server: bool = False,
    ) -> None:
        if _STOPPED.is_set():
            raise UserError("stopped: no more programs are run")
        self.level, self.limits, self.server = Level(level), limits or Limits(), server
        self.folder = "/box"
        """The working folder, as programs see it."""
        self._host_folder: str | None = None
        self._box: Any = None
        self._binds = [*system_binds(root), *binds]
        isolated = self.level >= Level.NAMESPACES
        if not isolated:
            self._check_binds(binds, root)
            self.folder = self._host_folder = _work_folder()
        try:
            self._box = _C.sandbox.Box(
                level=int(self.level),
                binds=[bind.packed() for bind in self._binds],
                bytes=self.limits.file_bytes,
                inodes=self.limits.files,
                kept=self.limits.kept_output,
                group=self.level >= Level.NAMESPACES_CGROUP,
                memory=self.limits.memory,
                # The keeper is in the group too; a server and its programs' own first processes come on top.
                processes=self.limits.processes + (64 if server else 1),
                folder=self.folder,
            )
        except _C.sandbox.Refused as error:
            self._remove_folder()
            raise refusals.explain(error, self._binds, self.level) from None
        with _LIVE_LOCK:
            _LIVE.add(self)

    def _check_binds(self, binds: Sequence[Bind], root: str | None) -> None:
        moved = [bind.inside for bind in binds if bind.host != bind.inside]
        if root or moved:
            raise UserError(
                f"level {self.level.value} has no root of its own, so {root or moved[0]} cannot be shown elsewhere; a "
                "toolchain in a folder needs level 3"
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files into the working folder. Names are relative; folders are made.

        Raises:
            UserError: a name leaves the folder, or the files are more than the limits allow.
        """
        for name in files:
            parts = name.split("/")
            if not name or name.startswith("/") or ".." in parts or "\0" in name:
                raise UserError(f"file {name!r}: must be a name below the working folder")
        try:
            self._box.write(list(files.items()))
        except _C.sandbox.Refused as error:
            raise refusals.explain(error, self._binds, self.level, list(files)) from None

    def start(self, command: Command) -> None:
        """Start a command; `wait` gives its outcome. Its `binds` and `root` are those of the session."""
        if _STOPPED.is_set():
            raise UserError("stopped: no more programs are run")
        if command.server and not self.server:
            raise ValueError("a server needs a session with server=True")
        if command.files:
            self.write(command.files)
        limits = command.limits
        isolated = self.level >= Level.NAMESPACES
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": self.folder,
            "TMPDIR": "/tmp" if isolated else self.folder,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        } | dict(command.environment)
        server = command.server
        # The keeper has the same user inside, so it counts; outside, all processes of the user count.
        base = 1 if isolated else _tasks_of_user()
        try:
            self._box.start(
                arguments=list(command.argv),
                environment=[f"{name}={value}" for name, value in environment.items()],
                paths=environment["PATH"].split(":"),
                folder=self.folder,
                input=command.stdin,
                cpu_seconds=0 if server else limits.cpu_seconds,
                wall_seconds=0 if server else limits.wall_seconds,
                memory=0 if server else limits.memory,
                address_space=limits.memory if command.address_space and not server else 0,
                file_bytes=limits.file_bytes,
                processes=0 if server else limits.processes + base,
                drained=0 if server else limits.drained_output,
                nested=server and isolated,
                keep_output=command.keep_output,
                descriptors=[(fd, fd) for fd in command.pass_fds],
            )
        except _C.sandbox.Refused as error:
            raise refusals.explain(error, self._binds, self.level, list(command.argv[:1])) from None

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The outcome of the command that was started, or None if it still runs after `timeout` seconds.

        Raises:
            UserError: the program could not be started, such as a path that is not in the sandbox.
        """
        try:
            found = self._box.wait(1e9 if timeout is None else timeout)
        except _C.sandbox.Refused as error:
            raise refusals.explain(error, self._binds, self.level) from None
        except BaseException:
            # Ctrl-C: the program must not outlive the call that waits for it.
            self.kill()
            raise
        return None if found is None else _outcome(found)

    def run(self, command: Command) -> Outcome:
        """Run a command to its end."""
        self.start(command)
        outcome = self.wait()
        assert outcome is not None
        return outcome

    def kill(self) -> None:
        """End the command that runs, with all its processes. Callable from any thread."""
        box = self._box
        if box is not None:
            # It may be gone already.
            with contextlib.suppress(_C.sandbox.Refused):
                box.kill("killed")

    def close(self) -> None:
        """End the sandbox.

        Raises:
            RuntimeError: something of it is left, which is a bug.
        """
        with _LIVE_LOCK:
            _LIVE.discard(self)
        box = self._box
        try:
            if box is not None:
                box.close()
        finally:
            self._box = None
            self._remove_folder()

    def _remove_folder(self) -> None:
        folder, self._host_folder = self._host_folder, None
        if folder is not None and not _C.sandbox.remove_tree(folder):
            shutil.rmtree(folder, ignore_errors=True)
            if os.path.lexists(folder):
                raise RuntimeError(f"{folder}: the sandbox could not remove its folder")

    @property
    def keeper(self) -> int:
        """The pid of the sandbox's first process, as this process sees it."""
        return int(self._box.keeper)


class Running:
    """A program that runs in a sandbox of its own. `wait`, `kill` or the end of a `with` block ends it."""

    def __init__(self, command: Command, level: Level) -> None:
        self._session = Session(level, command.limits, command.binds, command.root, server=command.server)
        self._outcome: Outcome | None = None
        try:
            self._session.start(command)
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The pid of the sandbox's first process (not of the program), as this process sees it."""
        return self._session.keeper

    def poll(self) -> Outcome | None:
        """The outcome if the program has ended."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The outcome, or None if the program still runs after `timeout` seconds. At the end the sandbox is closed."""
        if self._outcome is None:
            try:
                self._outcome = self._session.wait(timeout)
            except BaseException:
                self._session.close()
                raise
            if self._outcome is not None:
                self._session.close()
        return self._outcome

    def kill(self) -> None:
        """End the program; `wait` then gives its outcome."""
        if self._outcome is None:
            self._session.kill()

    def close(self) -> None:
        """End the program and the sandbox, whatever the program does."""
        self._session.close()


def start(command: Command, level: Level) -> Running:
    """Start a program in a sandbox of its own, and return while it runs."""
    return Running(command, level)


def run(command: Command, level: Level) -> Outcome:
    """Run a program in a sandbox of its own to its end. Blocking, without the GIL, callable from several threads.

    Args:
        level: what `levels.require` has proven.

    Raises:
        UserError: the machine refuses the sandbox, or argv[0] cannot be started in it.
    """
    with Session(level, command.limits, command.binds, command.root, server=command.server) as session:
        return session.run(command)


def _outcome(found: dict[str, Any]) -> Outcome:
    wait_status = found.pop("wait_status")
    ended_by = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else None
    status = os.WEXITSTATUS(wait_status) if ended_by is None else None
    # A limit of the process itself may act before the keeper looks.
    if found["cause"] == "ended" and ended_by == signal.SIGXCPU:
        found["cause"] = "cpu_time"
    return Outcome(status=status, signal=ended_by, **found)


_PREFIX = "codeshell-box-"
"""Begins the name of a working folder of levels 1 and 2; the pid of its maker follows."""


def _work_folder() -> str:
    """A new folder of the machine, for the user that the program will be."""
    _sweep_folders()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


@functools.cache
def _sweep_folders() -> None:
    """Remove, once for each process, the folders of processes that were killed before they could."""
    for entry in os.scandir(tempfile.gettempdir()):
        pid = entry.name.removeprefix(_PREFIX).partition("-")[0]
        ours = entry.name.startswith(_PREFIX) and pid.isdigit() and entry.is_dir(follow_symlinks=False)
        if (
            ours
            and entry.stat(follow_symlinks=False).st_uid in (os.geteuid(), NOBODY)
            and not Path(f"/proc/{pid}").exists()
        ):
            _C.sandbox.remove_tree(entry.path)


def _tasks_of_user() -> int:
    """Threads of the user that programs run as at levels 1 and 2: the kernel's limit counts them all."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    count = 0
    for entry in os.scandir("/proc"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += sum(1 for _ in os.scandir(f"/proc/{entry.name}/task"))
    return count
