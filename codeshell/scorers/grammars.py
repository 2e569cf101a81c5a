"""Grammars of tree-sitter: which are there, and the C++ that measures texts with them.

A grammar is a package of its own on PyPI (`tree-sitter-python`), which gives the address of its tables; the parser is
compiled into `codeshell._C`. The languages and what their nodes mean are in `syntax.toml`, which says how to add one.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.metadata
import importlib.util
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from codeshell import _C
from codeshell.errors import UserError

if TYPE_CHECKING:
    from codeshell._C.syntax import Language

WORDS = frozenset(
    """function lambda type if elif else loop switch case catch ternary decision logical and or jump parentheses
    statement declaration import comment string embedded number identifier variable parameters parameter call block
    attribute wrapper docstring data nothing try operator""".split()  # noqa: SIM905
)
"""The words of an entry under which types of nodes stand (csrc/syntax/kinds.h)."""

SETTINGS = frozenset({"package", "grammar", "suffixes", "like", "names"})

STYLES = {"snake": 1, "camel": 2, "pascal": 4, "upper": 8}
"""Bits of csrc/syntax/names.h."""

OPERATORS = {"and": ['"&&"', '"and"'], "or": ['"||"', '"or"']}
"""What joins conditions in most languages. Grammars that have no such token just have none."""


class Entry(NamedTuple):
    """A language of `syntax.toml`."""

    package: str
    """Its name on PyPI."""
    grammar: str
    """The function of its module that gives the grammar."""
    suffixes: Mapping[str, str]
    """Other functions, by the end of a document's path."""
    kinds: Mapping[str, Sequence[str]]
    """Patterns of node types by word."""
    inherited: frozenset[str]
    """Words whose patterns come from another language, and may not all be in this grammar."""
    conventions: Mapping[str, int]
    """Styles of names by role, as bits."""

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")

    @property
    def has_functions(self) -> bool:
        """False for a language of data, of which only the errors are measured."""
        return "function" in self.kinds


@functools.cache
def entries() -> dict[str, Entry]:
    """The languages of `syntax.toml` by name."""
    text = resources.files("codeshell.scorers").joinpath("syntax.toml").read_text(encoding="utf-8")
    return parse(tomllib.loads(text))


def parse(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The entries of a table such as `syntax.toml`.

    Raises:
        ValueError: an entry has an unknown word or style, or is like a language that does not stand before it.
    """
    found: dict[str, Entry] = {}
    for language, entry in table.items():
        unknown = sorted(entry.keys() - WORDS - SETTINGS)
        if unknown:
            raise ValueError(f"{language}: unknown word {unknown[0]!r}; the words: {', '.join(sorted(WORDS))}")
        like = entry.get("like")
        if like is not None and like not in found:
            raise ValueError(f"{language}: is like {like!r}, which does not stand before it")
        own = {word: patterns for word, patterns in entry.items() if word in WORDS}
        kinds = {**(found[like].kinds if like else OPERATORS), **own}
        names = entry.get("names", {})
        conventions = {role: sum(STYLES[style] for style in styles.split()) for role, styles in names.items()}
        # Parameters are variables to every convention.
        if "variable" in conventions:
            conventions["parameter"] = conventions["variable"]
        found[language] = Entry(
            package=entry["package"],
            grammar=entry.get("grammar", "language"),
            suffixes=entry.get("suffixes", {}),
            kinds=kinds,
            inherited=frozenset(kinds) - frozenset(own),
            conventions=conventions,
        )
    return found


def symbols_of(patterns: Sequence[str], symbols: Sequence[tuple[str, bool]]) -> tuple[list[int], list[str]]:
    """The numbers of the symbols that patterns take in, and the patterns that take in none.

    Args:
        patterns: a type of nodes, with `*` for any characters; in double quotes a plain token; with `!` in front,
            types that are taken out of those before.
        symbols: (name, named) of each symbol of a grammar.
    """
    chosen: dict[int, None] = {}
    without: list[str] = []
    for pattern in patterns:
        negative = pattern.startswith("!")
        wanted = pattern.removeprefix("!")
        named = not wanted.startswith('"')
        wanted = wanted if named else wanted[1:-1]
        # Only a star is special: tokens such as "[" and "?" are themselves.
        glob = wanted.replace("[", "[[]").replace("?", "[?]") if named else None
        hits = [
            number
            for number, (name, is_named) in enumerate(symbols)
            if name and is_named == named and (name == wanted if glob is None else fnmatch.fnmatchcase(name, glob))
        ]
        if not hits:
            without.append(pattern)
        for number in hits:
            if negative:
                chosen.pop(number, None)
            else:
                chosen[number] = None
    return sorted(chosen), without


def grammar(language: str, path: str = "") -> object:
    """What the package of a language's grammar gives for a document of this path: a capsule or an address.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    entry = entries()[language]
    function = next((name for suffix, name in entry.suffixes.items() if path.endswith(suffix)), entry.grammar)
    return _load(entry.module, function)


def _load(module: str, function: str) -> object:
    return getattr(importlib.import_module(module), function)()


def make(language: str, path: str = "") -> Language:
    """What measures texts of this language; the same object for the same grammar.

    Raises:
        UserError: the build has no tree-sitter, or its version and the grammar's do not go together.
        ModuleNotFoundError: the grammar's package is not installed.
    """
    need_build()
    entry = entries()[language]
    function = next((name for suffix, name in entry.suffixes.items() if path.endswith(suffix)), entry.grammar)
    return _make(language, function)


@functools.cache
def _make(language: str, function: str) -> Language:
    entry = entries()[language]
    given = _load(entry.module, function)
    try:
        symbols = _C.syntax.Language.symbols(given)
        kinds = {word: symbols_of(patterns, symbols)[0] for word, patterns in entry.kinds.items()}
        return _C.syntax.Language(given, kinds, entry.conventions)
    except ValueError as error:
        first, last = _C.syntax.versions
        raise UserError(
            f"{entry.package}: {error}; install a version of it whose grammar has a format from {first} to {last}"
        ) from None


def need_build() -> None:
    """Raise UserError in a build without tree-sitter."""
    if not _C.syntax.built:
        raise UserError(
            "syntax: this build of codeshell has no tree-sitter; build again with its sources at hand: "
            "CODESHELL_TREE_SITTER=1 pip install -e . says what is missing"
        )


def installed() -> dict[str, str | None]:
    """The version of each language's grammar, None if its package is not installed; needs no build."""
    found: dict[str, str | None] = {}
    for language, entry in entries().items():
        try:
            found[language] = importlib.metadata.version(entry.package)
        except importlib.metadata.PackageNotFoundError:
            found[language] = None
    return found


def functions(language: str, text: bytes, path: str = "") -> list[dict[str, Any]] | None:
    """The functions of a text: dicts with name, start and end (bytes), line, lines, cyclomatic, cognitive, parameters,
    documented. None if there is no grammar for the language.

    Raises:
        UserError: the build has no tree-sitter.
    """
    need_build()
    if language not in entries() or not entries()[language].has_functions:
        return None
    try:
        measurer = make(language, path)
    except ModuleNotFoundError:
        return None
    found = measurer.functions(text)
    return [{**entry, "name": entry["name"].decode("utf-8", "replace")} for entry in found]
