"""Levels of isolation: which one this machine gives, proven by a program that tries to break out.

`require` is the door: nothing that a model wrote runs before it has returned a `Proof`. What the kernel's files say
about namespaces is not believed; a sandbox is started, and the program inside attacks it.
"""

from __future__ import annotations

import enum
import functools
import threading
from dataclasses import dataclass

from codeshell.errors import UserError

__all__ = ["Level", "Proof", "best", "require"]


class Level(enum.IntEnum):
    """How far a program is kept apart from the machine. A higher number covers all that a lower one covers."""

    LIMITS = 1
    """Limits of the process and nothing else: for programs that one trusts."""
    LANDLOCK = 2
    """Files by Landlock, network and IPC by a filter of system calls; processes as far as that goes."""
    NAMESPACES = 3
    """Own processes, files, network, IPC and users, by namespaces of the kernel."""
    NAMESPACES_CGROUP = 4
    """The same, and memory and CPU time of all its processes together by a control group."""


NAMES = {
    Level.LIMITS: "limits only",
    Level.LANDLOCK: "Landlock",
    Level.NAMESPACES: "namespaces",
    Level.NAMESPACES_CGROUP: "namespaces and a control group",
}
"""For people."""

_COVERS = {
    Level.LIMITS: ("CPU time, wall time, file size and output of a program",),
    Level.LANDLOCK: ("files outside the working folder", "network", "IPC of System V and POSIX queues"),
    Level.NAMESPACES: (
        "files, processes and signals, network, IPC, users and mounts of this machine",
        "disk space and number of files",
        "number of processes",
        "what stays after the end: nothing",
    ),
    Level.NAMESPACES_CGROUP: ("memory of all processes together", "CPU time of processes that nobody waited for"),
}
"""What each level adds."""

_NOT_COVERED = {
    Level.LIMITS: (
        "files of the user",
        "network",
        "other processes of the user",
        "what a program writes",
    ),
    Level.LANDLOCK: (
        "other processes of the user can be seen",
        "memory of all processes together is watched, not limited",
        "number of processes, but roughly",
        "disk space",
    ),
    Level.NAMESPACES: (
        "memory of all processes together is watched every 50 ms, not limited",
        "memory of the kernel for sockets and pipes",
    ),
    Level.NAMESPACES_CGROUP: (),
}
_NEVER = ("faults of the kernel", "side channels, such as timing", "load on the machine up to the limits")


@dataclass(frozen=True)
class Proof:
    """A level that was tried out, with what it covers. It is stored with every result."""

    level: Level
    covers: tuple[str, ...]
    does_not_cover: tuple[str, ...]
    seconds: float = 0.0
    """Wall seconds of the proof."""
    attempts: int = 0
    """Attacks that the proof tried; all failed, or there would be no proof."""
    unsafe: bool = False
    """Whether the user asked for a level that keeps nothing apart."""

    def line(self) -> str:
        """One line for a person: the level, what was tried, what is not covered."""
        if self.level is Level.LIMITS:
            return "isolation: NONE (--unsafe, level 1): programs can read and write what you can, and use the network"
        return (
            f"isolation: level {self.level.value} ({NAMES[self.level]}), proven by {self.attempts} failed attempts to "
            f"break out; not covered: {'; '.join(self.does_not_cover)}"
        )


def describe(level: Level, seconds: float = 0.0, attempts: int = 0) -> Proof:
    """The proof of a level, without trying it."""
    covers = tuple(text for lower in Level if lower <= level for text in _COVERS[lower])
    return Proof(level, covers, _NOT_COVERED[level] + _NEVER, seconds, attempts, unsafe=level is Level.LIMITS)


_LOCK = threading.Lock()
_PROVEN: dict[Level, Proof | UserError] = {}


def prove(level: Level) -> Proof:
    """Try the level out, once for each process.

    Raises:
        UserError: the machine does not give it; the line says why and what to do.
    """
    from codeshell.evaluate.sandbox import probe

    level = Level(level)
    with _LOCK:
        if level not in _PROVEN:
            try:
                _PROVEN[level] = probe.try_out(level)
            except UserError as error:
                _PROVEN[level] = error
        found = _PROVEN[level]
    if isinstance(found, UserError):
        raise UserError(str(found))
    return found


def require(level: int | None = None, unsafe: bool = False) -> Proof:
    """The best level of this machine, or the one asked for, proven by trying to break out of it (once per process).

    Args:
        level: 1 to 4; None is the best. A machine that gives more is used at the level asked for.
        unsafe: allow level 1, which keeps nothing apart: as the level asked for, or where nothing else can be had.

    Raises:
        UserError: no isolation, or less than asked for. It names the cause and the remedy.
    """
    if level is not None:
        if level not in list(Level):
            raise UserError(f"level {level}: must be 1 to 4: {', '.join(f'{k.value} {v}' for k, v in NAMES.items())}")
        if level == Level.LIMITS and not unsafe:
            raise UserError("level 1 keeps nothing apart; say --unsafe if you trust every program that will run")
        return prove(Level(level))
    refusals: list[str] = []
    for candidate in (Level.NAMESPACES_CGROUP, Level.NAMESPACES, Level.LANDLOCK):
        try:
            return prove(candidate)
        except UserError as error:
            refusals.append(str(error))
    if unsafe:
        return prove(Level.LIMITS)
    raise UserError(f"no isolation on this machine, so no program is run. {refusals[1]}. {refusals[2]}")


@functools.cache
def best() -> Proof | UserError:
    """What `require()` gives, or its error: for `codeshell info` and tests."""
    try:
        return require()
    except UserError as error:
        return error
