"""The proof of a level: a sandbox at that level, with a program in it that tries to break out of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeshell import _C
from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox import refusals
from codeshell.evaluate.sandbox.isolation import Level, Proof, describe
from codeshell.evaluate.sandbox.launch import Bind, Command, Outcome, run

__all__ = ["python_binds", "python_program", "try_out"]

LIMITS = Limits(cpu_seconds=20, wall_seconds=60, memory=512 << 20, processes=24, file_bytes=4 << 20, files=200)

ALLOWED: dict[Level, frozenset[str]] = {
    Level.NAMESPACES_CGROUP: frozenset(),
    Level.NAMESPACES: frozenset(),
    # Said by `Proof.does_not_cover`. The kernel counts all processes of the user, which come and go meanwhile.
    Level.LANDLOCK: frozenset({"fill_disk", "fork_past_limit"}),
}
"""What the program may reach at a level."""


def python_binds() -> list[Bind]:
    """What this interpreter needs in a sandbox beyond the system's folders, without the packages of its environment."""
    prefixes = {os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix)}
    return [Bind(path, path) for path in sorted(prefixes) if not f"{path}/".startswith("/usr/")]


def python_program(level: Level) -> str:
    """An interpreter that can be started in a sandbox of the level, not the link of an environment.

    Without a root of its own (level 2), root's program is nobody, who cannot enter root's home.
    """
    own = os.path.realpath(sys.executable)
    if level >= Level.NAMESPACES or os.geteuid() != 0:
        return own
    for path in (own, "/usr/bin/python3"):
        parents = list(Path(path).parents)
        if Path(path).exists() and all(parent.stat().st_mode & 0o001 for parent in parents):
            return path
    raise UserError(
        f"level {level.value}: as root it needs a Python that every user may start, such as /usr/bin/python3"
    )


def try_out(level: Level) -> Proof:
    """Start a sandbox at the level, and let the program attack it.

    Raises:
        UserError: the machine refuses the sandbox, or an attack succeeded. It names the cause and the remedy.
    """
    started = time.perf_counter()
    if level == Level.LIMITS:
        return describe(level)
    _check_machine(level)
    with _planted() as plant:
        reached, outcome = _attack(level, plant)
        if reached is None:
            last = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            said = f"{outcome.cause}, {last[:200]}"
            raise UserError(f"level {level.value}: the program that tries it out did not end well: {said}")
        found = {name for name, what in reached.items() if what is not None} | plant.seen()
    broken = sorted(found - ALLOWED[level])
    if broken:
        raise UserError(f"level {level.value} does not hold here: a program got through by {', '.join(broken)}")
    return describe(level, time.perf_counter() - started, len(reached))


def _check_machine(level: Level) -> None:
    """What can be said without a try."""
    if not sys.platform.startswith("linux") or not _C.sandbox.built:
        raise UserError(f"level {level.value}: sandboxes need Linux on x86-64 or aarch64")
    if level == Level.NAMESPACES_CGROUP and _C.sandbox.groups()["version"] == 0:
        raise UserError(f"no control group: {_C.sandbox.groups()['obstacle']}; {refusals.GROUP_REMEDY}")
    if level == Level.LANDLOCK and _C.sandbox.landlock_abi() == 0:
        raise UserError(
            "Landlock is not there: Linux 5.13 or newer with landlock in its list of security modules (lsm=) has it"
        )


@dataclass
class _Plant:
    """What the host holds out to the program, and watches."""

    folder: Path
    mark: str
    listener: socket.socket
    datagrams: socket.socket
    abstract: socket.socket

    def request(self, level: Level) -> dict[str, Any]:
        """What the program is told."""
        return {
            "canary": str(self.folder / "canary"),
            "mark": self.mark,
            "port": self.listener.getsockname()[1],
            "udp": self.datagrams.getsockname()[1],
            "abstract": self.mark,
            "host_pid": os.getpid(),
            "folder": ".",
            "key": secrets.randbelow(1 << 30) + 1,
            "ipc_is_shared": level < Level.NAMESPACES,
            "processes": LIMITS.processes,
            "bytes": LIMITS.file_bytes,
        }

    def seen(self) -> set[str]:
        """What reached the host, whatever the program says."""
        seen = set()
        for name, channel in (
            ("connect_loopback", self.listener),
            ("connect_abstract", self.abstract),
        ):
            with contextlib.suppress(BlockingIOError):
                channel.accept()[0].close()
                seen.add(name)
        with contextlib.suppress(BlockingIOError):
            self.datagrams.recv(64)
            seen.add("send_datagram")
        if sorted(path.name for path in self.folder.iterdir()) != ["canary"]:
            seen.add("write_outside")
        if self._stayed():
            seen.add("stay")
        return seen

    def _stayed(self) -> bool:
        """Whether a process with the mark as its name is still on the machine."""
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{entry.name}/comm").read_text(errors="replace").strip() == self.mark[:15]:
                        return True
        return False


@contextlib.contextmanager
def _planted() -> Iterator[_Plant]:
    """A canary that everybody may read and a folder that everybody may write, and three sockets."""
    mark = f"cs{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codeshell-canary-")))
        folder.chmod(0o777)
        (folder / "canary").write_text("canary", encoding="utf-8")
        (folder / "canary").chmod(0o666)
        sockets = []
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{mark}"),
        ):
            channel = stack.enter_context(socket.socket(family, kind))
            channel.bind(address)
            channel.setblocking(False)
            if kind == socket.SOCK_STREAM:
                channel.listen(8)
            sockets.append(channel)
        yield _Plant(folder, mark, *sockets)


def _attack(level: Level, plant: _Plant) -> tuple[dict[str, Any] | None, Outcome]:
    """What the program reached, or None if it did not say."""
    script = Path(__file__).with_name("breakout.py").read_bytes()
    command = Command(
        [python_program(level), "-I", "-S", "breakout.py", json.dumps(plant.request(level))],
        files={"breakout.py": script},
        binds=python_binds(),
        limits=LIMITS,
    )
    outcome = run(command, level)
    try:
        found = json.loads(outcome.stdout)
    except ValueError:
        return None, outcome
    return (found if isinstance(found, dict) else None), outcome
