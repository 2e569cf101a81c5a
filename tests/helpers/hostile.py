"""Runs the hostile programs of tests/evaluate/sandbox/hostile in sandboxes, and watches the host meanwhile.

As a script it runs them as another user: `python hostile.py LEVEL NAME…` prints {name: [what went wrong]} as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import socket
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parents[1] / "evaluate" / "sandbox" / "hostile"
SECRET = "codeshell-secret-of-the-environment"
PROCESSES = 32


def table() -> dict[str, dict[str, Any]]:
    """Program name to what it must come to, with its group."""
    groups = tomllib.loads((PROGRAMS / "table.toml").read_text(encoding="utf-8"))
    return {name: row | {"group": group} for group, rows in groups.items() for name, row in rows.items()}


@dataclass
class Host:
    """What the host holds out to programs and watches: files, sockets, processes, limits."""

    folder: Path
    mark: str
    listeners: list[socket.socket]
    datagrams: socket.socket
    watched: dict[str, Any]
    children: frozenset[str]
    """Processes that this one had before any program ran: those of other tests and of multiprocessing."""

    def environment(self) -> dict[str, str]:
        return {
            "CANARY": str(self.folder / "canary"),
            "MARK": self.mark,
            "PORT": str(self.listeners[0].getsockname()[1]),
            "UDP": str(self.datagrams.getsockname()[1]),
            "HOST_PID": str(os.getpid()),
            "PROCESSES": str(PROCESSES),
        }

    def state(self) -> dict[str, Any]:
        """What no program may change."""
        limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:7] == "RLIMIT_"}
        places = (self.folder, "/tmp", "/dev/shm", "/var/tmp", "/usr/lib", "/", "/etc", Path.home(), Path.cwd())
        files = {
            f"{place}/{name}"
            for place in places
            for name in _listed(place)
            if name.startswith((self.mark, "left", "core"))
        }
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " codeshell " in line]
        return {
            "limits": limits,
            "priority": (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
            "files": files,
            "mounts": mounts,
            "canary": (self.folder / "canary").read_bytes(),
            "folder": sorted(_listed(self.folder)),
            "host": os.uname().nodename,
        }

    def changes(self) -> list[str]:
        """What reached the host since it was set up."""
        state = self.state()
        found = [f"changed: {key}: {state[key]}" for key, value in self.watched.items() if state[key] != value]
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(f"connected: {listener.getsockname()}")
        with contextlib.suppress(BlockingIOError):
            self.datagrams.recv(64)
            found.append("received a datagram")
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{entry.name}/comm").read_text(errors="replace").strip()
                    # The hostile daemon's name, or a keeper that outlived its sandbox and is a child of this process.
                    if name == self.mark[:15]:
                        found.append(f"left a process: {entry.name}")
        found += [f"left a child: {child}" for child in children() if child not in self.children]
        return found


def _listed(place: str | Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(place)]
    except OSError:
        return []


def children() -> list[str]:
    """Processes whose parent is this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(OSError):
            found += (task / "children").read_text().split()
    return found


@contextlib.contextmanager
def host() -> Iterator[Host]:
    mark = f"cs{secrets.token_hex(7)}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="canary-")))
        folder.chmod(0o777)
        (folder / "canary").write_text(SECRET, encoding="utf-8")
        (folder / "canary").chmod(0o666)
        os.environ["CODESHELL_SECRET"] = SECRET
        listeners = []
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, f"\0{mark}"),
            (socket.AF_UNIX, str(folder / "socket")),
        ):
            listener = stack.enter_context(socket.socket(family))
            listener.bind(address)
            listener.listen(8)
            listener.setblocking(False)
            listeners.append(listener)
        (folder / "socket").chmod(0o777)
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", 0))
        datagrams.setblocking(False)
        watcher = Host(folder, mark, listeners, datagrams, {}, frozenset(children()))
        watcher.watched = watcher.state()
        yield watcher


def attack(name: str, row: dict[str, Any], level: int, watcher: Host) -> list[str]:
    """Run one program; what it did that it may not, or an empty list."""
    from codeshell.evaluate.programs import Limits
    from codeshell.evaluate.sandbox import probe
    from codeshell.evaluate.sandbox.launch import Command, run
    from codeshell.evaluate.sandbox.levels import Level

    limits = Limits(
        cpu_seconds=row.get("cpu", 0.3),
        wall_seconds=row.get("wall", 60),
        memory=192 << 20,
        processes=PROCESSES,
        file_bytes=64 << 20,
        files=1000,
        kept_output=16 << 10,
        drained_output=8 << 20,
    )
    command = Command(
        [probe.python_program(Level(level)), "-I", "-S", "program.py"],
        files={"program.py": (PROGRAMS / f"{name}.py").read_bytes()},
        binds=probe.python_binds(),
        limits=limits,
        environment=watcher.environment(),
    )
    outcome = run(command, Level(level))
    text = outcome.stdout.decode(errors="replace")
    found = [line for line in text.splitlines() if line.startswith("LEAK")]
    if outcome.cause not in row["expect"].split():
        found.append(
            f"ended by {outcome.cause}, status {outcome.status}, signal {outcome.signal}: {outcome.stderr[-200:]!r}"
        )
    if "signal" in row and outcome.signal != row["signal"]:
        found.append(f"signal {outcome.signal}, not {row['signal']}")
    if len(outcome.stdout) > limits.kept_output or len(outcome.stderr) > limits.kept_output:
        found.append("more output was kept than the limit")
    if outcome.output_bytes > limits.drained_output + (4 << 20):
        found.append(f"{outcome.output_bytes} bytes of output were drained")
    if outcome.cpu_seconds > limits.cpu_seconds + 1.5:
        found.append(f"{outcome.cpu_seconds} CPU seconds")
    if outcome.peak_memory > limits.memory + (64 << 20) and level >= 4:
        found.append(f"{outcome.peak_memory} bytes of memory")
    return found


def attack_all(level: int, names: Sequence[str]) -> dict[str, list[str]]:
    """Run the programs in their order, and look at the host after each."""
    rows = table()
    with host() as watcher:
        found = {}
        for name in names:
            found[name] = attack(name, rows[name], level, watcher) + watcher.changes()
        return found


if __name__ == "__main__":
    print(json.dumps(attack_all(int(sys.argv[1]), sys.argv[2:])))
