"""The table of languages: every entry fits its grammar, patterns, and what is said where something is missing."""

from __future__ import annotations

import importlib

import pytest

from codeshell import _C
from codeshell.errors import UserError
from codeshell.scorers import grammars

pytestmark = pytest.mark.skipif(
    not _C.syntax.built, reason="built without tree-sitter: metrics of syntax trees are NOT checked"
)
LANGUAGES = [(language, end) for language, entry in grammars.entries().items() for end in ("", *entry.suffixes)]


@pytest.mark.parametrize(("language", "end"), LANGUAGES)
def test_the_grammar_has_every_type_of_the_entry(language: str, end: str) -> None:
    pytest.importorskip(grammars.entries()[language].module, reason=f"the grammar of {language} is NOT installed")
    entry = grammars.entries()[language]
    symbols = _C.syntax.Language.symbols(grammars.grammar(language, end))
    without = {word: grammars.symbols_of(patterns, symbols)[1] for word, patterns in entry.kinds.items()}
    assert {word: types for word, types in without.items() if types and word not in entry.inherited} == {}
    grammars.make(language, end)


def test_table_has_twenty_languages_with_functions() -> None:
    assert sum(entry.has_functions for entry in grammars.entries().values()) >= 20


def test_patterns() -> None:
    symbols = [("end", False), ("if_statement", True), ("if", False), ("for_statement", True), ("", True), ("[", False)]
    assert grammars.symbols_of(["*_statement", "!if_*"], symbols) == ([3], [])
    assert grammars.symbols_of(['"if"', '"["', "if"], symbols) == ([2, 5], ["if"])
    assert grammars.symbols_of(["*"], symbols) == ([1, 3], [])


def test_an_entry_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="a: unknown word 'functoin'; the words: and, attribute"):
        grammars.parse({"a": {"package": "x", "functoin": []}})
    with pytest.raises(ValueError, match="a: is like 'b', which does not stand before it"):
        grammars.parse({"a": {"package": "x", "like": "b"}, "b": {"package": "y"}})


def test_likeness_takes_over_all_but_what_is_given() -> None:
    found = grammars.parse(
        {"a": {"package": "x", "if": ["i"], "loop": ["l"]}, "b": {"package": "y", "like": "a", "if": ["j"]}}
    )["b"]
    assert found.kinds["if"] == ["j"] and found.kinds["loop"] == ["l"]
    assert "loop" in found.inherited and "if" not in found.inherited


def test_without_tree_sitter_in_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_C.syntax, "built", False)
    with pytest.raises(UserError, match="this build of codeshell has no tree-sitter; build again"):
        grammars.functions("python", b"")


@pytest.mark.parametrize("wrong", [None, 3.5, "python", _C.measure_texts])
def test_what_is_no_grammar(wrong: object) -> None:
    with pytest.raises(ValueError, match="language: must be"):
        _C.syntax.Language(wrong, {}, {})


def test_what_the_table_may_not_say_to_the_extension() -> None:
    language = grammars.grammar("json")
    with pytest.raises(ValueError, match="no word nonsense"):
        _C.syntax.Language(language, {"nonsense": [1]}, {})
    with pytest.raises(ValueError, match="no symbol 99999"):
        _C.syntax.Language(language, {"if": [99999]}, {})
    with pytest.raises(ValueError, match="no role r"):
        _C.syntax.Language(language, {}, {"r": 1})
    with pytest.raises(ValueError, match="grammar: null"):
        _C.syntax.Language(0, {}, {})


@pytest.mark.parametrize(
    "language", [pytest.param(name, id=name) for name in ("python", "javascript", "cpp", "php", "css", "perl")]
)
def test_nodes_are_those_of_tree_sitter(language: str) -> None:
    """Types, places and order of all visible nodes, errors among them, against the package `tree-sitter`."""
    tree_sitter = pytest.importorskip("tree_sitter", reason="NOT compared with the package tree-sitter")
    module = grammars.entries()[language].module
    given = grammars.grammar(language)
    if isinstance(given, int):
        pytest.skip(f"{importlib.import_module(module).__name__} gives an address, which the package warns about")
    parser = tree_sitter.Parser(tree_sitter.Language(given))
    symbols = [*_C.syntax.Language.symbols(given), ("ERROR", True)]
    texts = [
        b"def f(a):\n    if a and b:\n        return 'x' + f'{a}' # c\n",
        b"class A { f(x = 1) { return x ? `a${x}` : /r/g; } } // c\nlet { a, b } = c;\n",
        b"#include <a>\ntemplate <class T> struct A : B<T> { int f(T a) const { return a->b * 2; } };\n",
        b"<?php function f($a) { return $a['x'] ?? null; } ?>\n<p>text</p>\n",
        b"a:\n  - b: 'c'\n    d: &x [1, 2]\n  - *x\n",
        b"sub f { my ($a) = @_; return $a->{x} // 'y'; }\n",
        b'} ) ] broken ( [ { "unclosed',
        b"",
        b"\n\n",
    ]
    for text in texts:
        mine = _C.syntax.Language(given, {}, {}).nodes(text)
        ours = [
            (*symbols[symbol], start, end, bool(flags & 2))
            for symbol, start, end, flags in zip(
                *(mine[name].tolist() for name in ("symbol", "start", "end", "flags")), strict=True
            )
        ]
        assert ours == list(walk(parser.parse(text))), text


def walk(tree):
    """(type, named, start, end, missing) of the nodes in preorder, by the public cursor."""
    cursor = tree.walk()
    while True:
        node = cursor.node
        yield node.type, node.is_named, node.start_byte, node.end_byte, node.is_missing
        if cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
