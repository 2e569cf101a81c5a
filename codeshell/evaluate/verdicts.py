"""What a judge says about a program: the verdict, why, the end of its output, what it cost, and how it was isolated.

What a program printed is hostile until it is cleaned: `one_line` and `tail` take out what could command a terminal or
break a line, and bound the length. Every judge makes its `Judged` with them.

Importing this module imports neither torch nor the extension.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LONGEST_OUTPUT", "LONGEST_WHY", "Judged", "Verdict", "one_line", "tail"]

LONGEST_WHY = 400
"""Characters of `Judged.why`."""

LONGEST_OUTPUT = 4 << 10
"""Bytes of `Judged.output` in UTF-8."""


class Verdict(enum.StrEnum):
    """What became of a program. Only `PASS` counts as solved; `NOT_RUN` counts neither way."""

    PASS = "pass"
    """All tests ran to their end, and all held."""
    WRONG = "wrong"
    """A test did not hold."""
    EXCEPTION = "exception"
    """The program raised, crashed, or does not define what the tests ask for."""
    CPU_TIME = "cpu_time"
    """It used up its CPU time."""
    WALL_TIME = "wall_time"
    """It did not use up its CPU time, and took too long all the same: it waits or sleeps."""
    MEMORY = "memory"
    """It asked for more memory than it has."""
    OUTPUT = "output"
    """It printed more than is drained."""
    EARLY_EXIT = "early_exit"
    """It ended before the tests did."""
    COMPILE = "compile"
    """It does not compile, or is no valid text of its language."""
    NOT_RUN = "not_run"
    """It was not run: there is no toolchain, no isolation, or no answer."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one program, and what a person needs to believe it."""

    verdict: Verdict
    why: str = ""
    """One line of at most `LONGEST_WHY` characters, cleaned: the failing test, the exception, the limit."""
    output: str = ""
    """The end of both streams, cleaned, at most `LONGEST_OUTPUT` bytes."""
    seconds: float = 0.0
    """CPU seconds, of all its processes."""
    level: int = 0
    """The level of isolation that it ran at (`sandbox.levels.Level`); 0 where nothing ran."""
    toolchain: str = ""
    """Name and version: "CPython 3.11.7"."""
    mode: str = ""
    """How it was judged if not in the usual way: "same-process"."""

    @property
    def passed(self) -> bool:
        """Whether it solved its problem."""
        return self.verdict is Verdict.PASS

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON; an empty `mode` is left out."""
        fields = asdict(self) | {"verdict": self.verdict.value, "seconds": round(self.seconds, 4)}
        return fields if self.mode else {name: value for name, value in fields.items() if name != "mode"}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Judged:
        """The object that `to_json` was called on; what else the mapping holds is passed over.

        Raises:
            ValueError: a field is missing, or is of another type.
        """
        # A journal may have been damaged, so every field is looked at.
        types = {"why": str, "output": str, "level": int, "toolchain": str}
        values = {name: fields.get(name) for name in types}
        seconds, mode = fields.get("seconds"), fields.get("mode", "")
        if not all(isinstance(values[name], kind) for name, kind in types.items()) or not isinstance(mode, str):
            raise ValueError("not the fields of a verdict")
        if not isinstance(seconds, int | float):
            raise ValueError("not the seconds of a verdict")
        return Judged(Verdict(fields.get("verdict")), seconds=float(seconds), mode=mode, **values)  # type: ignore[arg-type]


_UNSAFE = re.compile(
    # C0 and C1 controls but tab and line feed; DEL; the line and paragraph separators; what turns the direction of
    # writing; zero-width characters and the byte order mark; lone surrogates; non-characters at the end of the plane.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb\ufffe\uffff]"
)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def one_line(text: str | bytes, longest: int = LONGEST_WHY) -> str:
    """The text as one line of at most `longest` characters: line breaks and tabs become spaces, controls escapes.

    A text that is too long keeps its beginning and its end, with " … " between them.
    """
    # Nothing is done to megabytes of which 400 characters are kept: four bytes make a character at most.
    if len(text) > longest * 9:
        text = _ends(text, longest * 4)
    raw = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    line = _UNSAFE.sub(_escaped, " ".join(raw.replace("\r", "\n").split()))
    if len(line) <= longest:
        return line
    # Two thirds of the room for the beginning: what was raised stands there, and its cause often at the end.
    first = (longest - 3) * 2 // 3
    return f"{line[:first]} … {line[len(line) - (longest - 3 - first) :]}"


def tail(text: str | bytes, longest: int = LONGEST_OUTPUT) -> str:
    """The end of an output, cleaned: at most `longest` bytes of UTF-8, lines kept, controls as escapes."""
    # The end is cut twice: before, so that little is cleaned, and after, since escapes are longer.
    raw = text[-longest:].decode("utf-8", "replace") if isinstance(text, bytes) else text[-longest:]
    clean = _UNSAFE.sub(_escaped, raw.replace("\r\n", "\n").replace("\r", "\n"))
    return clean.encode()[-longest:].decode(errors="ignore")


def _ends(text: str | bytes, count: int) -> str | bytes:
    if isinstance(text, bytes):
        return text[:count] + b" " + text[-count:]
    return f"{text[:count]} {text[-count:]}"
