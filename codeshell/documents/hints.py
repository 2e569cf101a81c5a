"""What the text of a file shows of its language, where its name does not say it: the patterns of `hints.toml`."""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A language that is meant if the pattern is found; None is no language of ours."""

    language: str | None
    pattern: re.Pattern[bytes]


PLACES = {"line": r"^[ \t]*(?:%s)", "left": r"^(?:%s)", "first": r"\A\s*(?:%s)", "anywhere": "%s"}
"""Where the patterns of a choice begin."""

COMMENTED = frozenset({".h", ".hh", ".m", ".inc"})
"""Suffixes whose text is looked at without `/* */` and `//` comments, because prose begins lines with any word."""

_GUARD = re.compile(
    rb"\A\s*#[ \t]*(?:pragma[ \t]+once\b|ifndef[ \t]+(\w+)\s+#[ \t]*define[ \t]+\1\b|include[ \t]*[<\"])"
)
_PHP = re.compile(rb"\A\s*<\?php\b")
_HTML = re.compile(rb"\A\s*<(?:!DOCTYPE[ \t]+html|html)\b", re.IGNORECASE)


@functools.cache
def _tree() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("codeshell.documents").joinpath("hints.toml").read_text(encoding="utf-8"))


@functools.cache
def shared() -> frozenset[str]:
    """The suffixes that do not say the language, lower-case."""
    return frozenset(_tree()["suffixes"])


@functools.cache
def choices(ending: str) -> tuple[Choice, ...]:
    """The choices of a shared suffix, in order. Compiled when first asked for: a corpus has few of them."""
    found = []
    for entry in _tree()["suffixes"][ending]:
        if entry == "otherwise":
            found.append(Choice(None, re.compile(b"")))
            continue
        choice: dict[str, Any] = _tree()["common"][entry] if isinstance(entry, str) else entry
        (place,) = choice.keys() & PLACES.keys()
        flags = re.MULTILINE | (re.IGNORECASE if choice.get("any-case") else re.NOFLAG)
        pattern = re.compile((PLACES[place] % "|".join(choice[place])).encode(), flags)
        found.append(Choice(choice.get("language"), pattern))
    return tuple(found)


def by_hints(ending: str, language: str | None, head: bytes) -> str | None:
    """The language that the text of a file with a shared suffix shows; `language` if it shows none."""
    code = without_comments(head) if ending in COMMENTED else head
    for choice in choices(ending):
        if choice.pattern.search(code):
            return choice.language
    return language


def by_form(head: bytes, *, named: bool) -> str | None:
    """The language of a text whose name says nothing, if its first lines have a form that only one language has.

    Args:
        named: the name has a suffix, of which nothing is known. Headers of C++ without suffix are usual; an unknown
            suffix with C's preprocessor is more likely a language of its own.
    """
    if _PHP.match(head):
        return "php"
    if named:
        return None
    if _HTML.match(head):
        return "html"
    return by_hints(".h", "c", head) if _GUARD.match(without_comments(head)) else None


def without_comments(text: bytes) -> bytes:
    """A text without the `/* */` and `//` comments of C. Strings are not told apart: at most some lines are lost."""
    pieces, at, block, line = [], 0, -2, -2
    while True:
        # The next comment of either kind, each looked for once.
        if block != -1 and block < at:
            block = text.find(b"/*", at)
        if line != -1 and line < at:
            line = text.find(b"//", at)
        start = min((place for place in (block, line) if place >= 0), default=-1)
        pieces.append(text[at:start] if start >= 0 else text[at:])
        if start < 0:
            return b"".join(pieces)
        # A comment that has no end takes the rest.
        end = text.find(b"*/", start + 2) if start == block else text.find(b"\n", start)
        if end < 0:
            return b"".join(pieces)
        at = end + 2 if start == block else end
