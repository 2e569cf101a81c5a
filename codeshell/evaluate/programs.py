"""A program to judge: a candidate with the tests of its problem, the language, and the limits that it runs under.

`Program.key` names what decides its verdict. Two programs with the same key are the same program, so it is run once.

Importing this module imports neither torch nor the extension.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from codeshell.errors import UserError

__all__ = ["Limits", "Program"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. CPU time decides; wall time is a net for programs that sleep or wait.

    Raises:
        UserError: a limit is not positive.
    """

    cpu_seconds: float = 10.0
    """CPU seconds of all its processes. Canonical MBPP/123 needs 5.6 of a slow core, so 3 are too few."""
    wall_seconds: float = 60.0
    """Seconds until it is ended although CPU time is left."""
    memory: int = 4 << 30
    """Bytes: in all with a cgroup, otherwise of the address space of each process."""
    processes: int = 64
    """Processes and threads at a time."""
    file_bytes: int = 256 << 20
    """Bytes of one file, and of its working folder with all that is in it."""
    files: int = 10_000
    """Files and folders in its working folder."""
    kept_output: int = 64 << 10
    """Bytes of the end of each stream that are kept."""
    drained_output: int = 64 << 20
    """Bytes of output after which it is ended."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            # Not `<= 0`: a NaN is no limit either.
            if not value > 0:
                raise UserError(f"limits: {item.name} = {value}; give more than 0")


@dataclass(frozen=True, slots=True)
class Program:
    """One candidate and its tests."""

    language: str
    """"python", "js", "cpp", …: the names of MultiPL-E."""
    code: str
    """The candidate: prompt and completion, cut at the stop sequences."""
    tests: str
    """What it has to pass; how the two are joined is `style`."""
    entry_point: str = ""
    """The function that the tests call."""
    style: str = "humaneval"
    """"humaneval": the tests define `check(candidate)`. "mbpp": they are statements that call the function by its
    name. "multipl-e", "humaneval-x": they follow the code in one file, as these sets have it."""
    setup: str = ""
    """Code that runs after the candidate and before the tests (MBPP's `test_setup_code`)."""
    helpers: str = ""
    """Trusted no more than the candidate, but not written by the model: the prompt. The judge of the tests may execute
    it for functions that the tests call."""
    limits: Limits = field(default_factory=Limits)

    def key(self, toolchain: str, level: int) -> str:
        """SHA-256, in hex, of all that decides the verdict: the program, its limits, the toolchain and the level.

        Args:
            toolchain: its name and version.
        """
        # JSON keeps the parts apart whatever they hold; a lone surrogate, which a model can write, is an escape there.
        parts: dict[str, Any] = asdict(self) | {"toolchain": toolchain, "level": int(level)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
