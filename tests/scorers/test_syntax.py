"""Metrics of syntax trees: texts worked out by hand, references, hostile texts, and what is not measured."""

from __future__ import annotations

import argparse
import ast
import json.decoder
import math
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from codeshell import _C
from codeshell.errors import UserError
from codeshell.scorers import grammars, make
from codeshell.scorers.syntax import SYNTAX, Syntax

pytestmark = pytest.mark.skipif(
    not _C.syntax.built, reason="built without tree-sitter: metrics of syntax trees are NOT checked"
)
TEXTS = tomllib.loads((Path(__file__).parent / "syntax_texts.toml").read_text(encoding="utf-8"))


def table(*rows: tuple[str, str] | tuple[str, str, str]) -> pa.Table:
    """Documents of (language, text[, path])."""
    return pa.table(
        {
            "text": pa.array([row[1] for row in rows], pa.large_string()),
            "language": pa.array([row[0] for row in rows]),
            "path": pa.array([row[2] if len(row) > 2 else "file" for row in rows]),
        }
    )


def columns(language: str, text: str, path: str = "file", **settings) -> dict[str, object]:
    scored = Syntax(**settings).score(table((language, text, path)))
    assert list(scored) == SYNTAX.names
    return {name: scored[name][0].as_py() for name in SYNTAX.names}


def cyclomatic(language: str, text: str) -> dict[str, int]:
    return {found["name"]: found["cyclomatic"] for found in grammars.functions(language, text.encode())}


def need(language: str) -> None:
    pytest.importorskip(grammars.entries()[language].module, reason=f"the grammar of {language} is NOT installed")


@pytest.mark.parametrize("language", TEXTS)
def test_text_of_each_language(language: str) -> None:
    need(language)
    entry = TEXTS[language]
    found = columns(language, entry["text"])
    assert cyclomatic(language, entry["text"]) == entry["functions"]
    expected = entry.get("columns", {})
    assert {name: found[name] for name in expected} == expected
    assert found["syntax_errors"] == 0 and found["syntax_error_nodes"] == 0
    assert found["functions"] == len(entry["functions"])
    assert found["cyclomatic_sum"] == sum(entry["functions"].values())
    assert found["cyclomatic_mean"] == found["cyclomatic_sum"] / found["functions"]


def test_every_language_with_functions_has_a_text() -> None:
    assert set(TEXTS) == {name for name, entry in grammars.entries().items() if entry.has_functions}


@pytest.mark.parametrize(
    ("body", "cognitive"),
    [
        ("if a:\n  pass", 1),
        ("if a:\n  if b:\n    pass", 3),
        ("if a:\n  pass\nelif b:\n  pass\nelse:\n  pass", 3),
        ("for x in a:\n  while b:\n    if c:\n      pass", 6),
        ("return a and b and c", 1),
        ("return a and b or c", 2),
        ("return a and (b and c)", 1),
        ("try:\n  pass\nexcept E:\n  if a:\n    pass", 3),
        ("return f(a)", 1),  # recursion
        ("def g():\n  if a:\n    pass", 2),  # nested one level
        ("return a if b else c", 1),
    ],
)
def test_cognitive_complexity(body: str, cognitive: int) -> None:
    text = "def f(a, b=0):\n" + "".join(f"  {line}\n" for line in body.split("\n"))
    assert columns("python", text)["cognitive_sum"] == cognitive


def test_cognitive_complexity_of_else_if_and_jumps() -> None:
    text = "void f() { if (a) {} else if (b) { if (c) {} } else {} goto end; end: ; }"
    # if 1, else if 1, the if within 2, else 1, goto 1
    assert columns("c", text)["cognitive_max"] == 6


def test_halstead_of_a_line() -> None:
    found = columns("c", "int a = b + b;")
    # Operators: = and +; operands: int, a, b, b. A primitive type is a named token.
    assert found["halstead_volume"] == pytest.approx(6 * math.log2(5))
    assert found["halstead_difficulty"] == pytest.approx(2 / 2 * 4 / 3)


def test_strings_are_one_operand_and_embedded_code_counts() -> None:
    plain = columns("python", 'a = "b + c + d"')
    embedded = columns("python", 'a = f"{b + c}"')
    assert plain["halstead_volume"] == pytest.approx(3 * math.log2(3))
    assert embedded["halstead_volume"] > plain["halstead_volume"]


def test_names_and_their_convention() -> None:
    found = columns("python", "def goodName(x, some_word):\n  MAX = 3\n  other = 4\nclass snake_class: pass\n")
    # goodName, x, some_word, MAX, other, snake_class
    assert found["names_one_letter"] == pytest.approx(1 / 6)
    assert found["names_camel"] == pytest.approx(2 / 6)  # goodName, other
    assert found["names_snake"] == pytest.approx(3 / 6)  # some_word, other, snake_class
    assert found["names_upper"] == pytest.approx(1 / 6)
    assert found["names_in_convention"] == pytest.approx(3 / 5)  # not goodName, not snake_class; x is not judged


def test_errors_are_a_share_of_the_tokens() -> None:
    assert columns("python", "a = 1\n")["syntax_errors"] == 0
    broken = columns("python", "a = 1\nb = = 2\nc = 3\n")
    assert 0 < broken["syntax_errors"] < 0.5 and broken["syntax_error_nodes"] >= 1
    assert columns("python", "}{ ?? )( $$")["syntax_errors"] > 0.5


def test_a_language_of_data_has_only_errors() -> None:
    found = columns("json", '{"a": [1, 2]}')
    assert found["syntax_errors"] == 0 and found["functions"] is None and found["halstead_volume"] is None
    assert columns("json", '{"a": [1, 2')["syntax_error_nodes"] > 0


def test_tsx_by_its_path() -> None:
    text = "const a = () => { return <b>{c ? 1 : 2}</b>; };\n"
    assert columns("typescript", text, "a.tsx")["syntax_errors"] == 0
    assert columns("typescript", text, "a.ts")["syntax_errors"] > 0


def test_what_is_not_measured_is_null_and_counted() -> None:
    scorer = make("syntax", {"max_bytes": 50})
    scored = scorer.score(table(("python", "a = 1\n"), ("no-such-language", "x"), ("python", "a = 1\n" * 20)))
    assert [value.as_py() for value in scored["functions"]] == [0, None, None]
    assert [value.as_py() for value in scored["syntax_errors"]] == [0.0, None, None]
    assert scorer.counts == {"measured": 1, "no grammar": 1, "too long": 1, "too much effort": 0}


def test_a_grammar_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = grammars.entries()["json"]._replace(package="tree-sitter-that-is-not-there")
    monkeypatch.setitem(grammars.entries(), "other", entry)
    scorer = Syntax()
    assert scorer.score(table(("other", "{}")))["syntax_errors"].to_pylist() == [None]
    assert scorer.missing == {"other"} and scorer.counts["no grammar"] == 1
    assert grammars.installed()["other"] is None


def test_a_text_that_takes_too_much() -> None:
    """The core needs 5 GB for these 12 kB; here the parse is left, and the next text is as without it."""
    scorer = Syntax()
    rows = [("c", "int f(void) { return 1; }"), ("c", "x=>" * 4000), ("c", "int f(void) { return 1; }")]
    assert scorer.score(table(*rows))["functions"].to_pylist() == [1, None, 1]
    assert scorer.counts["too much effort"] == 1


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.5, "many"])
def test_a_limit_out_of_range(value: object) -> None:
    with pytest.raises(UserError, match=r"max_bytes = .* must be from 1 to"):
        Syntax(max_bytes=value)


def test_columns_depend_on_the_document_alone() -> None:
    rows = [(language, TEXTS[language]["text"]) for language in ("python", "c", "java", "javascript")] * 2
    together = Syntax().score(table(*rows))
    sliced = Syntax().score(table(("c", "int x;"), *rows, ("c", "")).slice(1, len(rows)))
    for name in SYNTAX.names:
        alone = [Syntax().score(table(row))[name][0].as_py() for row in rows]
        assert together[name].to_pylist() == sliced[name].to_pylist() == alone


DEEP = 100_000
HOSTILE = {
    "empty": "",
    "blank": " \n\t\r\n" * 10,
    "open": "(" * DEEP,
    "nested": "(" * DEEP + ")" * DEEP,
    "brackets": "[" * DEEP + "]" * DEEP,
    "negations": "!" * DEEP + "a",
    "else if": "if (a) {} else " * 3000,
    "nul": "a\0b" * 1000,
    "line": "a = 1; " * 30_000,
    "operators": "a && b || " * 3000 + "c",
    "quotes": "\"'`" * 5000,
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("language", ["python", "c", "javascript"])
def test_hostile_texts(language: str, text: str) -> None:
    """No crash, no recursion; a second time gives the same."""
    first = columns(language, HOSTILE[text])
    assert first["syntax_errors"] is None or 0 <= first["syntax_errors"] <= 1
    if len(HOSTILE[text]) < 50_000:
        assert columns(language, HOSTILE[text]) == first


@pytest.mark.parametrize("language", grammars.entries())
def test_every_language_with_every_other_languages_text(language: str) -> None:
    need(language)
    scorer = Syntax()
    scored = scorer.score(table(*((language, entry["text"]) for entry in TEXTS.values())))
    assert all(value is None or 0 <= value <= 1 for value in scored["syntax_errors"].to_pylist())


def test_bytes_that_are_no_utf8_and_a_text_beyond_the_limit() -> None:
    """A run has only valid text; C++ is given any bytes."""
    texts = [b"\xff\xfe\x80 = 1\n", b"a = 1\n", b"x" * (12 << 20)]
    offsets = np.cumsum([0, *map(len, texts)])
    found = grammars.make("python").measure(b"".join(texts), offsets, 1 << 20)
    assert found["measured"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="offsets"):
        grammars.make("python").measure(b"abc", np.array([0, 5]), 100)


LIZARD = {
    "c": "c",
    "cpp": "cpp",
    "java": "java",
    "javascript": "js",
    "go": "go",
    "lua": "lua",
    "c-sharp": "cs",
    "kotlin": "kt",
    "swift": "swift",
    "rust": "rs",
    "objective-c": "m",
}
DIFFERENCES = {
    "kotlin": "lizard counts no branch of `when`",
    "c-sharp": "lizard does not count `foreach`",
    "javascript": "lizard does not look into the code of a template",
}
"""Where lizard differs from us on the texts above, and why."""


@pytest.mark.parametrize("language", LIZARD)
def test_cyclomatic_complexity_of_lizard(language: str) -> None:
    lizard = pytest.importorskip("lizard", reason="NOT compared with lizard")
    need(language)
    found = lizard.analyze_file.analyze_source_code(f"a.{LIZARD[language]}", TEXTS[language]["text"])
    theirs = sorted(function.cyclomatic_complexity for function in found.function_list)
    ours = sorted(cyclomatic(language, TEXTS[language]["text"]).values())
    assert (theirs != ours) == (language in DIFFERENCES)


def test_cyclomatic_complexity_of_radon() -> None:
    """Equal on functions of the standard library, with a radon that also looks into what is asserted."""
    visitors = pytest.importorskip("radon.visitors", reason="NOT compared with radon")

    def visit_assert(self, node: ast.Assert) -> None:
        self.complexity += 1
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visitors.ComplexityVisitor, "visit_Assert", visit_assert)
        modules = (argparse, json.decoder, textwrap)
        compared = sum(compare_with_radon(visitors.ComplexityVisitor, module) for module in modules)
    assert compared > 100


def compare_with_radon(visitor, module) -> int:
    """How many functions were compared."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    found = visitor.from_code(text)
    pending = [*found.functions, *(method for each in found.classes for method in each.methods)]
    pending += [method for each in found.classes for inner in each.inner_classes for method in inner.methods]
    ours = {function["line"]: function["cyclomatic"] for function in grammars.functions("python", text.encode())}
    compared = 0
    while pending:
        function = pending.pop()
        pending += function.closures
        assert ours[function.lineno] == function.complexity, function.name
        compared += 1
    return compared
