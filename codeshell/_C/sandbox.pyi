"""Sandboxes for generated code (csrc/sandbox). Use codeshell.evaluate.sandbox.launch, which checks and explains."""

from collections.abc import Sequence
from typing import TypedDict

built: bool
"""Whether the extension holds the keeper, which exists for x86-64 and aarch64."""

class Refused(Exception):
    """A step that the kernel refused: "step:errno:index"."""

class _Outcome(TypedDict):
    wait_status: int
    cause: str
    stdout: bytes
    stderr: bytes
    output_bytes: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory: int
    killed: int

class _Groups(TypedDict):
    version: int
    folders: tuple[str, str, str]
    obstacle: str

class Box:
    """A sandbox with its keeper. `binds` are (host, inside, flags); `bytes`, `inodes` limit the working folder; `kept`
    bytes of each stream are kept; `group`: a control group with `memory` bytes and `processes`; `folder` is the working
    folder of levels 1 and 2."""
    def __init__(
        self,
        *,
        level: int,
        binds: Sequence[tuple[str, str, int]],
        bytes: int,
        inodes: int,
        kept: int,
        group: bool,
        memory: int,
        processes: int,
        folder: str,
    ) -> None: ...
    def write(self, files: Sequence[tuple[str, bytes]]) -> None: ...
    def start(
        self,
        *,
        arguments: Sequence[str],
        environment: Sequence[str],
        paths: Sequence[str],
        folder: str,
        input: bytes,
        cpu_seconds: float,
        wall_seconds: float,
        memory: int,
        address_space: int,
        file_bytes: int,
        processes: int,
        drained: int,
        nested: bool,
        keep_output: bool,
        descriptors: Sequence[tuple[int, int]],
    ) -> None: ...
    def wait(self, seconds: float) -> _Outcome | None: ...
    def kill(self, cause: str) -> None: ...
    def close(self) -> None:
        """Raises RuntimeError if anything of the sandbox is left."""

    @property
    def keeper(self) -> int: ...

def groups() -> _Groups:
    """The control groups that can be had: version 1 or 2, 0 with the obstacle."""

def landlock_abi() -> int:
    """0 without Landlock."""

def filter(kind: str, scoped: bool = True) -> bytes:
    """The seccomp filter "strict", "shared" (levels 1, 2) or "nested": instructions of 8 bytes each."""

def fork_program(
    *,
    cpu_seconds: float,
    address_space: int,
    processes: int,
    file_bytes: int,
    files: int,
    keep_fds: Sequence[int],
    namespaces: bool = True,
) -> int:
    """Fork inside a sandbox, from a server with its capabilities: 0 in the child, which is then confined for good in
    pid, mount and IPC namespaces of its own, in a new /box. A child that could not be confined exits with 126.

    Args:
        cpu_seconds: of each process, 2 s later (0: none); the server counts the time of all of them.
        address_space: bytes of each process; 0 is without limit.
        processes: of this program at a time, with threads.
        file_bytes: bytes of /box, /tmp and /dev/shm together, and of one file.
        files: in them.
        keep_fds: descriptors that stay open beside 0, 1 and 2.
        namespaces: False at levels 1 and 2.

    Raises:
        Refused: the fork failed.
    """

def program_failure() -> str:
    """ "step:errno:index" of the last child that could not be confined, or empty."""

def program_usage() -> tuple[float, int]:
    """CPU seconds and resident bytes of all processes in this sandbox but the keeper and the caller."""

def remove_tree(path: str) -> bool:
    """Remove a folder that a program filled, whatever is in it; no link is followed. False if something is left."""
