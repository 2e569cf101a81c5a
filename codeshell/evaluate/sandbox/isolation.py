"""The levels of isolation, and what each covers and does not cover. `levels.py` proves them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["NAMES", "Level", "Proof", "describe"]


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
