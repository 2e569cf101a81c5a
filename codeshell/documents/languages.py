"""Which language a file is in: by name, by suffix, by the interpreter of its first line.

The order: an exact file name (`Makefile`), `Dockerfile.dev` and the like, the last suffix, and only for a name without
suffix the `#!` line. A suffix that several languages share is settled by `AMBIGUOUS`: the first language whose pattern
is found in the beginning of the text, else the default. The table is `languages.toml`.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from importlib import resources
from typing import NamedTuple

HEAD_BYTES = 16_384
"""Bytes that `AMBIGUOUS` looks at: a header file shows its language within them, and a data file costs no more."""


class Choice(NamedTuple):
    """A language that is meant if the pattern is found; None is no language of ours."""

    language: str | None
    pattern: re.Pattern[bytes]


def _line(pattern: str) -> re.Pattern[bytes]:
    """A pattern that begins at the start of a line."""
    return re.compile(rb"^[ \t]*(?:" + pattern.encode() + rb")", re.MULTILINE)


AMBIGUOUS: dict[str, tuple[Choice, ...]] = {
    ".h": (
        Choice("objective-c", _line(r"@(?:interface|protocol|class|property|import|end)\b|#[ \t]*import\b")),
        Choice(
            "cpp",
            _line(
                r"template[ \t]*<|class[ \t]+\w|namespace\b|using[ \t]+\w|public:|private:|protected:|virtual\b"
                r"|constexpr\b|#[ \t]*include[ \t]*<[a-z_]+>"
            ),
        ),
        Choice("cpp", re.compile(rb"\bstd::\w")),
    ),
    ".m": (
        Choice("mathematica", re.compile(rb"\A\s*\(\*|^BeginPackage\[|:=[ \t]*Module\[", re.MULTILINE)),
        Choice("matlab", _line(r"function\b|%|classdef\b|end[ \t]*$|clear\b|close all")),
    ),
    ".pl": (
        Choice("perl", re.compile(rb"\A#!.*\bperl")),
        Choice("perl", _line(r"use[ \t]+[\w:]+|package[ \t]+\w|my[ \t]+[$@%(]")),
        Choice("prolog", re.compile(rb"^:-|^[a-z]\w*(?:\([^\n]*\))?[ \t]*:-", re.MULTILINE)),
    ),
    ".v": (Choice("coq", _line(r"(?:Require|Theorem|Lemma|Proof|Inductive|Definition)\b|From[ \t]+\w")),),
    ".fs": (Choice("glsl", _line(r"#version[ \t]+\d|uniform\b|varying\b|precision[ \t]")),),
    ".ml": (Choice("standard-ml", _line(r"(?:structure|signature|functor)\b[^\n]*=")),),
    ".cs": (Choice("smalltalk", _line(r"!\w+[\w ]*methodsFor:")),),
    ".cls": (Choice("tex", re.compile(rb"\\(?:ProvidesClass|NeedsTeXFormat|documentclass)|\A%")),),
    # Not languages of the table: Qt translations, RenderScript, dependency lists of make, machine descriptions of
    # GCC, SuperCollider, OpenCL, S.
    ".ts": (Choice(None, re.compile(rb"\A\s*(?:<\?xml|<!DOCTYPE TS)")),),
    ".tsx": (Choice(None, re.compile(rb"\A\s*<\?xml")),),
    ".rs": (Choice(None, _line(r"#pragma[ \t]+(?:rs|version)\b")),),
    ".d": (Choice(None, re.compile(rb"\A[^\n]*\S\.(?:o|lo|obj|rlib|rmeta|so)[ \t]*:")),),
    ".md": (Choice(None, re.compile(rb"^\(define_(?:insn|expand|c_enum)\b", re.MULTILINE)),),
    ".sc": (Choice(None, re.compile(rb"\bSynthDef\b|\bPbind\b")),),
    ".cl": (Choice(None, re.compile(rb"\b__kernel\b|\bget_global_id\b")),),
    ".s": (Choice(None, re.compile(rb"\A\s*\w+[ \t]*<-[ \t]*function\b")),),
}
"""Suffix to choices, in the order they are tried; the language of `languages.toml` is the default."""

ALIASES = {
    "c++": "cpp",
    "c#": "c-sharp",
    "csharp": "c-sharp",
    "f#": "f-sharp",
    "fsharp": "f-sharp",
    "bash": "shell",
    "sh": "shell",
    "js": "javascript",
    "ts": "typescript",
    "py": "python",
    "rst": "restructuredtext",
    "golang": "go",
    "objective-c++": "objective-cpp",
    "visual-basic-.net": "visual-basic",
    "wolfram-language": "mathematica",
    "rocq-prover": "coq",
    "protobuf": "protocol-buffer",
    "webassembly-text": "webassembly",
    "latex": "tex",
}
"""Names that data sets use in a language column, lower-cased and with `-` for a space."""

_SHEBANG = re.compile(rb"#!\s*(\S+)(?:[ \t]+([^\r\n]*))?")


class _Table(NamedTuple):
    names: tuple[str, ...]
    extensions: dict[str, str]
    files: dict[str, str]
    interpreters: dict[str, str]


@functools.cache
def _table() -> _Table:
    tree = tomllib.loads(resources.files("codeshell.documents").joinpath("languages.toml").read_text(encoding="utf-8"))
    # The file lists names by language; looking up needs the languages by name, in three tables.
    parts: dict[str, dict[str, str]] = {"extensions": {}, "files": {}, "interpreters": {}}
    for language, entry in tree.items():
        for key, values in entry.items():
            for value in values:
                assert value not in parts[key], f"languages.toml: {value} is in two languages"
                parts[key][value] = language
    return _Table(tuple(tree), **parts)


def names() -> tuple[str, ...]:
    """Every language of the table, sorted."""
    return _table().names


def suffix(name: str) -> str:
    """The last suffix, lower-case and with its dot; empty for `Makefile` and `.bashrc`."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def by_name(name: str) -> tuple[str | None, bool]:
    """The language that a file's name says.

    Args:
        name: the last part of the path.

    Returns:
        The language or None, and whether `by_content` must look at the text to know.
    """
    # An exact name wins over a suffix: `CMakeLists.txt` is no text file.
    table = _table()
    if name in table.files:
        return table.files[name], False
    ending = suffix(name)
    language = table.extensions.get(ending)
    if language is not None:
        return language, bool(AMBIGUOUS.get(ending))
    # `Dockerfile.dev` and `Makefile.linux`: the suffix names a variant, not a language.
    stem = name.split(".", 1)[0]
    if stem in ("Dockerfile", "Containerfile", "Makefile", "GNUmakefile", "Jenkinsfile"):
        return table.files[stem], False
    return None, not ending


def by_content(name: str, language: str | None, head: bytes) -> str | None:
    """Settle what `by_name` left open, from the beginning of the file (`HEAD_BYTES` at most are looked at)."""
    if language is None:
        return by_shebang(head)
    # The choices are tried in order; if none is found, the default of the suffix stands.
    head = head[:HEAD_BYTES]
    for choice in AMBIGUOUS.get(suffix(name), ()):
        if choice.pattern.search(head):
            return choice.language
    return language


def by_path(path: str, head: bytes) -> str | None:
    """The language of a file by its path and, where that leaves it open, by the beginning of its text."""
    name = path.rsplit("/", 1)[-1]
    language, look_inside = by_name(name)
    return by_content(name, language, head) if look_inside else language


def by_shebang(head: bytes) -> str | None:
    """The language of a `#!` line: `#!/usr/bin/env -S python3.11 -u` is python."""
    match = _SHEBANG.match(head[:256])
    if match is None:
        return None
    program = match[1].rsplit(b"/", 1)[-1]
    # `env` is not the interpreter: that is its first argument which is neither an option nor a variable.
    if program == b"env":
        words = [word for word in (match[2] or b"").split() if not word.startswith(b"-") and b"=" not in word]
        program = words[0].rsplit(b"/", 1)[-1] if words else b""
    name = program.decode("ascii", "replace")
    table = _table().interpreters
    # `python3.11` counts as `python` unless the table has the full name.
    return table.get(name) or table.get(re.sub(r"[\d.]+$", "", name))


@functools.lru_cache(4096)
def by_label(label: str) -> str | None:
    """The language that a data set's language column means (`C++`, `Common Lisp`), or None."""
    # Data sets write `C++`, `Common Lisp`, `common_lisp`.
    name = label.strip().lower().replace(" ", "-").replace("_", "-")
    name = ALIASES.get(name, name)
    return name if name in _table().names else None


def closest(name: str) -> str:
    """`"; did you mean X?"` for a misspelt language, or how to list them."""
    # A label of a data set (`C++`) is more likely meant than a similar word.
    near = by_label(name) or next(iter(difflib.get_close_matches(name.lower(), names(), n=1)), None)
    return f"did you mean {near}?" if near else "codeshell/documents/languages.toml lists them"
