"""Wording that a newcomer cannot follow stays out of messages, docstrings, comments and pages of the whole repository.

Code is not looked at: only what a person reads. That is docstrings, comments and longer strings of Python, comments of
C++, CUDA, TOML and the Makefile, text of HTML, and Markdown without its code.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".pyi", ".md", ".h", ".cuh", ".cu", ".cpp", ".inc", ".html", ".toml", ".cmake"}
NAMES = {"Makefile", "CMakeLists.txt"}
SKIPPED = {"tests/test_words.py"}

UNITS = (
    r"(?:bytes?|bits?|nats?|tokens?|FLOPs?|[MGT]FLOPs?|ns|us|µs|ms|[kMGT]i?B|cycles?|registers?|seconds?|threads?|rows?|"
    r"lines?|comparisons?)"
)
EACH = (
    r"(?:array|band|batch|block|byte|call|case|chart|core|device|document|element|epoch|file|group|head|job|key|lane|"
    r"language|layer|level|library|line|machine|page|pair|parameter|process|query|row|second|sequence|shard|shingle|step|task|"
    r"tensor|text|thread|tile|token|warp|word|worker)"
)


class Rule(NamedTuple):
    """One kind of wording."""

    name: str
    pattern: re.Pattern[str]
    advice: str
    kinds: frozenset[str] = frozenset({"docstring", "comment", "string", "page"})
    """Where it is looked for."""


RULES = (
    Rule("mend", re.compile(r"\bmend(?:s|ed|ing)?\b", re.I), "fix"),
    Rule("wanted was", re.compile(r"\bwanted (?:was|were)\b", re.I), "target"),
    Rule("go on", re.compile(r"\b(?:go(?:es|ing|ne)?|went) on\b(?! (?:top|a|its|the)\b)", re.I), "resume, continue"),
    Rule("behind", re.compile(r"\bbehind\b", re.I), "after"),
    Rule(
        "docstring's first word",
        re.compile(r"\A\s*(?:Of|As|By)\s"),
        "begin with a noun phrase or a sentence",
        frozenset({"docstring"}),
    ),
    Rule(
        "bare decimal",
        re.compile(r"(?<![\w.\\)\]/*\"'])\.\d+(?![\w.]*\w*[a-zA-Z(])"),
        "a digit before the point",
        frozenset({"docstring", "comment", "page"}),
    ),
    Rule(
        "a unit by an article",
        re.compile(rf"(?:/s|(?<!\w)\d+(?:[.,]\d+)*|\b{UNITS}(?<!\bbit)|\bone) an? {EACH}\b(?!'s| \w+s\b| may\b| of\b)"),
        "per",
    ),
)

ALLOWED = re.compile(
    r"\b(?:lag|fall|leave|left|stay)(?:s|ing)?\b[^.;:]{0,60}\bbehind\b"  # in a race, or remaining
    r"|\b(?:hides?|hidden)\b[^.;:]{0,60}\bbehind\b"  # latency behind work
    r"|\bbehind (?:\w+ )?(?:same )?(?:interface|call|URL|name|back)\b",  # what is reached through another thing
    re.I,
)
"""What the rules may find: a match inside one of these is none."""


class Piece(NamedTuple):
    """Text that a person reads."""

    line: int
    kind: str
    """`docstring`, `comment`, `string` or `page`."""
    text: str


def _python(text: str) -> Iterator[Piece]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Piece(node.lineno, "docstring" if id(node) in docstrings else "string", node.value)
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            block.append((token.start[0], token.string.lstrip("#: ")))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and block:
            yield _joined(block)
            block = []
    if block:
        yield _joined(block)


def _comments(text: str, pattern: str) -> Iterator[Piece]:
    """Comments; those on lines that follow one another are one piece."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(pattern, line)
        if found:
            block.append((number, found.group(1)))
        if block and (not found or line[: found.start()].strip()):
            yield _joined(block)
            block = []
    if block:
        yield _joined(block)


def _joined(block: list[tuple[int, str]]) -> Piece:
    return Piece(block[0][0], "comment", "\n".join(text for _, text in block))


def _blanked(text: str, pattern: str) -> str:
    """The text with every match replaced by its line breaks alone, so that line numbers stay."""
    return re.sub(pattern, lambda found: "\n" * found.group().count("\n") + " ", text, flags=re.S | re.M)


def pieces(path: Path) -> Iterator[Piece]:
    """What a person reads of a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        yield from _python(text)
    elif path.suffix == ".md":
        text = _blanked(text, r"^ *```.*?^ *```")
        for number, line in _paragraphs(_blanked(text, r"`[^`\n]*`|\]\([^)\s]*\)")):
            yield Piece(number, "page", line)
    elif path.suffix == ".html":
        for number, line in enumerate(_blanked(text, r"<style.*?</style>|<script.*?</script>").splitlines(), 1):
            yield Piece(number, "string", line)
    elif path.suffix in (".toml", ".cmake") or path.name in NAMES:
        yield from _comments(text, r"(?:^|\s)#+ ?(.*)")
    else:
        yield from _comments(text, r"(?:^|[\s;{}(,])(?://+|/\*+) ?(.*)")


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and table rows, each with the number of its first line."""
    first, lines = 1, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip() and not line.startswith("|"):
            first = first if lines else number
            lines.append(line)
            continue
        if lines:
            yield first, "\n".join(lines)
            lines = []
        if line.strip():
            yield number, line


def problems(piece: Piece) -> Iterator[str]:
    """What the rules find in a piece, one sentence per match."""
    allowed = [match.span() for match in ALLOWED.finditer(piece.text)]
    for rule in RULES:
        if piece.kind not in rule.kinds:
            continue
        for match in rule.pattern.finditer(piece.text):
            if any(begin <= match.start() and match.end() <= end for begin, end in allowed):
                continue
            line = piece.line + piece.text[: match.start()].count("\n")
            around = piece.text[max(match.start() - 30, 0) : match.end() + 20]
            yield f"{line}: {rule.name} (write: {rule.advice}): … {' '.join(around.split())} …"


def files() -> list[Path]:
    """The repository's files of these kinds."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.split("\n")
    else:  # a copy without git
        hidden = re.compile(r"(?:^|/)(?:\.|build/|runs/|dist/)")
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
        names = [name for name in names if not hidden.search(name)]
    chosen = [name for name in names if Path(name).suffix in SUFFIXES or Path(name).name in NAMES]
    return [ROOT / name for name in sorted(set(chosen) - SKIPPED) if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words(path: Path) -> None:
    found = [line for piece in pieces(path) for line in problems(piece)]
    name = path.relative_to(ROOT)
    assert not found, "\n" + "\n".join(f"{name}:{line}" for line in found)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("no such file; mend the path", "mend"),
        ("3.2 s, wanted were 2", "wanted was"),
        ("the same command goes on where it stopped", "go on"),
        ("the special tokens behind it", "behind"),
        ("of true pairs it sees .997", "bare decimal"),
        ("between (.7 and .8)", "bare decimal"),
        ("62-71 MB/s a core, flat", "a unit by an article"),
        ("126 bytes a document", "a unit by an article"),
        ("messages, one a line", "a unit by an article"),
        ("1.9 bits a byte", "a unit by an article"),
    ],
)
def test_what_is_found(text: str, rule: str) -> None:
    for kind in ("docstring", "comment", "page"):
        assert any(rule in line for line in problems(Piece(1, kind, text)))


@pytest.mark.parametrize("text", ["Of a signature; …", "As torch's.", "By name, ours first."])
def test_what_is_found_at_the_start_of_a_docstring(text: str) -> None:
    assert any("first word" in line for line in problems(Piece(1, "docstring", text)))
    assert not list(problems(Piece(1, "comment", text)))


@pytest.mark.parametrize(
    "text",
    [
        "0.997 of the pairs, and 1.5 times",
        "ld.global.v4 and x.5",
        "what a killed run leaves behind",
        "so that some lag as far behind as they can",
        "tasks of a Ray cluster behind the same interface",
        "a table of tokens and a document",
        "the rules go on top of the table",
        "a 16-bit element, and how many tokens a row of the cache can hold",
        "files like .7z and .2bit",
        "version 2.13.0, page 3.",
    ],
)
def test_what_is_not_found(text: str) -> None:
    for kind in ("docstring", "comment", "page"):
        assert not list(problems(Piece(1, kind, text)))


def test_where_it_is_looked_for() -> None:
    found = list(_python('"""Opening line."""\nbehind = 1\nraise E(f"bad {behind}; mend it")  # one\n# two\n'))
    assert [(piece.kind, piece.text) for piece in found if "mend" in piece.text] == [("string", "; mend it")]
    assert {"one\ntwo"} == {piece.text for piece in found if piece.kind == "comment"}
