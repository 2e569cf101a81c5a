"""Patterns of `.gitignore`, and the attributes that `.gitattributes` gives to files: read as git reads them.

    parse           one line of a pattern file
    Rules           the patterns of one file, or of one setting; the last one that matches decides
    Attributes      the lines of one `.gitattributes` that speak of linguist

Paths are matched as bytes, because git does: `?` is one byte. A pattern of a hostile repository cannot cost much: each
part between two stars is searched once, from left to right, and never again (atomic groups).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

MAX_FILE_BYTES = 1 << 20
"""A pattern file over this is not read; the largest that people publish have some 20 kB."""

CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}

LINGUIST = ("linguist-vendored", "linguist-generated", "linguist-language")
"""The attributes that count. `linguist-documentation` and `linguist-detectable` steer statistics, not what is code."""


class Pattern(NamedTuple):
    """One pattern: what it matches, and what that means."""

    text: str
    regex: re.Pattern[bytes]
    """Matches the whole name (`by_name`) or the whole path below the directory of the pattern file."""
    by_name: bool
    """The pattern has no slash: the last part of the path is matched."""
    only_directories: bool
    negated: bool


def parse(line: str, *, attributes: bool = False) -> Pattern | None:
    """The pattern of a line of `.gitignore`; None for an empty line, a comment, and what can match nothing.

    Args:
        line: without its newline.
        attributes: a pattern of `.gitattributes`, where `!` and a slash at the end have no meaning.
    """
    text = line
    if not attributes:
        # Spaces at the end do not count, unless a backslash stands before the first of them.
        text = _without_trailing_spaces(text.removesuffix("\r"))
        if not text or text.startswith("#"):
            return None
    negated = not attributes and text.startswith("!")
    pattern = os.fsencode(text[1:] if negated else text)
    only_directories = not attributes and pattern.endswith(b"/")
    if only_directories:
        pattern = pattern[:-1]
    by_name = b"/" not in pattern
    regex = _regex(pattern.removeprefix(b"/"))
    if not pattern or regex is None:
        return None
    return Pattern(line, regex, by_name, only_directories, negated)


def _without_trailing_spaces(text: str) -> str:
    bare = text.rstrip(" ")
    slashes = len(bare) - len(bare.rstrip("\\"))
    return bare + " " if slashes % 2 and len(bare) < len(text) else bare


def _regex(pattern: bytes) -> re.Pattern[bytes] | None:
    """The regular expression of a pattern; None for one that git finds broken, which matches nothing."""
    # Runs of whole parts between `**`: the parts of a run follow one another directly.
    runs: list[list[bytes]] = [[]]
    for part in _split(pattern):
        if len(part) > 1 and not part.strip(b"*"):
            runs.append([])
            continue
        found = _part(part)
        if found is None:
            return None
        runs[-1].append(found)
    # `a/**` is what is below a, `**/a` is a anywhere, `a/**/b` also a/b.
    source = b"/".join(runs[0])
    if runs[0] and len(runs) > 1:
        source += b"/"
    for run in filter(None, runs[1:-1]):
        # The earliest place where a run fits is as good as any later one: the group never looks again.
        source += rb"(?>(?:[^/]*/)*?" + b"/".join(run) + b"/)"
    if len(runs) > 1:
        source += rb"(?:[^/]*/)*" + b"/".join(runs[-1]) if runs[-1] else rb".+"
    try:
        return re.compile(source + rb"\Z", re.DOTALL)
    except re.error:
        return None


def _split(pattern: bytes) -> list[bytes]:
    """What stands between the slashes of a pattern. A slash in brackets is none, and one after a backslash is one."""
    parts, begin, at = [], 0, 0
    while at < len(pattern):
        character = pattern[at : at + 1]
        escaped = pattern[at : at + 2] == rb"\/"
        if character == b"/" or escaped:
            parts.append(pattern[begin:at])
            at += 1 + escaped
            begin = at
        elif character == b"[":
            found = _bracket(pattern, at + 1)
            at = found[1] if found else at + 1
        else:
            at += 2 if character == b"\\" else 1
    return [*parts, pattern[begin:]]


def _part(part: bytes) -> bytes | None:
    """The regular expression of what stands between two slashes."""
    pieces: list[bytes] = [b""]
    at = 0
    while at < len(part):
        character = part[at : at + 1]
        at += 1
        if character == b"*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append(b"")
        elif character == b"?":
            pieces[-1] += b"[^/]"
        elif character == b"\\":
            if at == len(part):
                return None
            pieces[-1] += re.escape(part[at : at + 1])
            at += 1
        elif character == b"[":
            found = _bracket(part, at)
            if found is None:
                return None
            piece, at = found
            pieces[-1] += piece
        else:
            pieces[-1] += re.escape(character)
    # What stands between two stars is taken where it comes first, once and for all; the end must fit the end.
    if len(pieces) == 1:
        return pieces[0]
    middle = b"".join(b"(?>[^/]*?" + piece + b")" for piece in pieces[1:-1])
    return pieces[0] + middle + b"[^/]*" + pieces[-1]


def _bracket(part: bytes, at: int) -> tuple[bytes, int] | None:
    """The class that begins after the `[` before `at`, and the place after it; None if it does not end."""
    negated = part[at : at + 1] in (b"!", b"^")
    at += negated
    members = b""
    first = True
    previous: int | None = None
    while first or part[at : at + 1] != b"]":
        first = False
        if at >= len(part):
            return None
        character = part[at]
        if part[at : at + 2] == b"[:":
            end = part.find(b"]", at + 2)
            if end < 0:
                return None
            if part[end - 1 : end] == b":" and end > at + 2:
                name = part[at + 2 : end - 1]
                if name not in CLASSES:
                    return None
                members += CLASSES[name]
                previous, at = None, end + 1
                continue
        if part[at : at + 1] == b"-" and previous is not None and part[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
            if part[at : at + 1] == b"\\":
                at += 1
                if at >= len(part):
                    return None
            if part[at] >= previous:
                members += b"\\x%02x-\\x%02x" % (previous, part[at])
            previous, at = None, at + 1
            continue
        if part[at : at + 1] == b"\\":
            at += 1
            if at >= len(part):
                return None
            character = part[at]
        members += b"\\x%02x" % character
        previous, at = character, at + 1
    # A class never matches a slash.
    if not members:
        return (b"[^/]" if negated else b"[^\\x00-\\xff]"), at + 1
    return (b"(?!/)[" + (b"^" if negated else b"") + members + b"]"), at + 1


class Rules:
    """The patterns of one file, in their order; the last one that matches an entry decides on it."""

    def __init__(self, source: Iterable[str]) -> None:
        self.patterns = [pattern for pattern in map(parse, source) if pattern is not None]
        # The last patterns come first. Neighbours that mean the same are one expression each for names and paths.
        self._groups: list[tuple[bool, list[Pattern]]] = []
        for pattern in reversed(self.patterns):
            if not self._groups or self._groups[-1][0] is not pattern.negated:
                self._groups.append((pattern.negated, []))
            self._groups[-1][1].append(pattern)
        self._for = {
            directory: [(not negated, *_together(group, directory)) for negated, group in self._groups]
            for directory in (False, True)
        }

    def decide(self, path: bytes, name: bytes, directory: bool) -> bool | None:
        """Whether the entry is meant (True), excepted by a `!` pattern (False), or not spoken of (None).

        Args:
            path: relative to the directory of the pattern file.
            name: its last part.
        """
        for meant, names, paths in self._for[directory]:
            if (names is not None and names.match(name)) or (paths is not None and paths.match(path)):
                return meant
        return None


def _together(group: list[Pattern], directory: bool) -> tuple[re.Pattern[bytes] | None, re.Pattern[bytes] | None]:
    """One expression for the names and one for the paths that a group of patterns matches, None where it has none."""
    found = []
    for by_name in (True, False):
        sources = [
            one.regex.pattern for one in group if one.by_name is by_name and (directory or not one.only_directories)
        ]
        source = b"|".join(b"(?:" + source + b")" for source in sources)
        found.append(re.compile(source, re.DOTALL) if sources else None)
    return found[0], found[1]


class Attributes:
    """The lines of one `.gitattributes` that give or take an attribute of `LINGUIST`."""

    def __init__(self, source: Iterable[str]) -> None:
        self._lines: list[tuple[Pattern, dict[str, str | None]]] = []
        for line in source:
            text = line.strip(" \t\r\n")
            if "linguist-" not in text or text.startswith(("#", "[attr]")):
                continue
            found = _quoted(text) if text.startswith('"') else re.match(r"(\S+)\s+(.*)", text)
            if not found:
                continue
            given = dict(filter(None, map(_attribute, found[2].split())))
            pattern = parse(found[1], attributes=True)
            if given and pattern is not None:
                self._lines.append((pattern, given))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def update(self, path: bytes, name: bytes, into: dict[str, str | None]) -> None:
        """Put what this file says of an entry into a dict: "true", "false", a value, or None for `!attribute`.

        What is there already stays: ask the nearest file first. Within a file the last line wins.
        """
        mine: dict[str, str | None] = {}
        for pattern, given in self._lines:
            if pattern.regex.match(name if pattern.by_name else path):
                mine |= given
        for key, value in mine.items():
            into.setdefault(key, value)

    def takes_back(self, directory: bytes) -> bool:
        """Whether a line may say `-linguist-vendored` of something below a directory (a path like those of
        `update`)."""
        return any(
            given.get("linguist-vendored", "true") == "false" and _may_reach(pattern, directory)
            for pattern, given in self._lines
        )


def _quoted(text: str) -> re.Match[str] | None:
    found = re.match(r'"((?:[^"\\]|\\.)*)"\s+(.*)', text)
    return found if found and "\\" not in found[1] else None


def _attribute(word: str) -> tuple[str, str | None] | None:
    """`linguist-vendored`, `-linguist-vendored`, `linguist-vendored=false`, `!linguist-vendored`."""
    name, equals, value = word.lstrip("-!").partition("=")
    if name not in LINGUIST:
        return None
    if word[0] == "!":
        return name, None
    if word[0] == "-":
        return name, "false"
    return name, value if equals else "true"


def _may_reach(pattern: Pattern, directory: bytes) -> bool:
    """Whether a pattern can match a path below a directory: its parts fit the directory's parts, as far as both go."""
    if pattern.by_name:
        return True
    parts = _split(os.fsencode(pattern.text).strip(b"/"))
    for part, name in zip(parts, directory.split(b"/"), strict=False):
        if len(part) > 1 and not part.strip(b"*"):
            return True
        expression = _part(part)
        if expression is None or not re.fullmatch(expression, name, re.DOTALL):
            return False
    return len(parts) > directory.count(b"/") + 1


def read_lines(path: str) -> list[str] | None:
    """The lines of a pattern file; None if it is no ordinary file, too large, or cannot be read."""
    try:
        # A link inside a repository may point anywhere, and a pipe would hang: git reads neither.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(handle, "rb") as file:
        try:
            data = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        except OSError:
            return None
    if len(data) > MAX_FILE_BYTES:
        return None
    return lines(data)


def lines(data: bytes) -> list[str]:
    """The lines of a pattern file by its bytes."""
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
