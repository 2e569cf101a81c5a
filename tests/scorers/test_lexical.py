"""The lexical measures against simple references: Python's own tokenizer and parser, regular expressions, and plain
loops over words and lines."""

from __future__ import annotations

import ast
import io
import itertools
import keyword
import random
import re
import statistics
import textwrap
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.documents.languages import names as language_names
from codeshell.scorers import lexis
from codeshell.scorers.lexical import COLUMNS, FILE_NAMES, Lexical

SCORER = Lexical()
LIBRARY = Path(ast.__file__).parent
"""Python's standard library: code of many hands that is there in every test run."""

FILES = ["textwrap.py", "heapq.py", "csv.py", "difflib.py", "shlex.py", "string.py", "cmd.py", "queue.py", "sched.py"]


def table(texts: list[str], language: str | list[str], paths: list[str] | None = None) -> pa.Table:
    languages = [language] * len(texts) if isinstance(language, str) else language
    return pa.table(
        {
            "text": pa.array(texts, pa.large_string()),
            "language": pa.array(languages, pa.string()),
            "path": pa.array(paths or ["a/b.x"] * len(texts), pa.string()),
            "repo": pa.array(["owner/project"] * len(texts), pa.string()),
        }
    )


def score(text: str, language: str, path: str = "a/b.x") -> dict[str, Any]:
    columns = SCORER.score(table([text], language, [path]))
    return {name: column.to_pylist()[0] for name, column in columns.items()}


def raw(data: bytes, language: str) -> dict[str, float]:
    """The columns of any bytes, straight from C++."""
    offsets = np.array([0, len(data)], np.int64)
    values = _C.lexical.measure(data, offsets, [lexis.of_language(language)], np.zeros(1, np.int32))
    return dict(zip(_C.lexical.columns, values[:, 0].tolist(), strict=True))


# ---- Python, against tokenize and ast


class Reference:
    """What tokenize and ast say about a Python text."""

    def __init__(self, text: str) -> None:
        words = set(lexis.entry("python")["words"]["keyword"]) | set(keyword.kwlist)
        names, self.numbers, self.strings, self.comments = list[str](), 0, list[str](), 0
        code, comment = set[int](), set[int]()
        docstrings = {
            node.body[0].lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        }
        self.docstrings = 0
        layout = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
        lines = text.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            span = range(token.start[0], token.end[0] + 1)
            if token.type == tokenize.COMMENT:
                comment.update(span)
                self.comments += len(token.string)
            elif token.type == tokenize.STRING and token.start[0] in docstrings:
                comment.update(span)
                self.docstrings += len(token.string.lstrip("rR").replace("\n", ""))
            elif token.type not in layout:
                code.update(span)
                if token.type == tokenize.NAME and token.string not in words:
                    names.append(token.string)
                elif token.type == tokenize.NUMBER:
                    self.numbers += 1
                elif token.type == tokenize.STRING:
                    self.strings.append(token.string.lstrip("rRbBfFuU"))  # a prefix counts as nothing
        filled = {number for number, line in enumerate(lines, 1) if line.strip()}
        # A line that a backslash continues holds code, of which tokenize has no token.
        self.code_lines = len((code | (filled - comment)) & filled)
        self.comment_lines = len(filled) - self.code_lines
        self.blank_lines = len(lines) - len(filled)
        self.names = names


@pytest.mark.parametrize("name", FILES)
def test_python_is_read_as_tokenize_reads_it(name: str) -> None:
    text = (LIBRARY / name).read_text(encoding="utf-8")
    found, wanted = score(text, "python"), Reference(text)
    assert (found["code_lines"], found["comment_lines"], found["blank_lines"]) == (
        wanted.code_lines,
        wanted.comment_lines,
        wanted.blank_lines,
    )
    assert found["identifiers"] == len(wanted.names)
    assert found["identifier_length"] == pytest.approx(statistics.mean(map(len, wanted.names)))
    assert found["identifier_distinct"] == pytest.approx(len(set(wanted.names)) / len(wanted.names))
    assert found["numbers"] * wanted.code_lines == pytest.approx(wanted.numbers)
    assert found["strings"] * wanted.code_lines == pytest.approx(len(wanted.strings))
    assert found["docstring_share"] * len(text) == pytest.approx(wanted.docstrings)
    # These files begin without a licence, so all comments count.
    assert found["licence_share"] == 0
    assert found["comment_share"] * len(text) == pytest.approx(wanted.comments + wanted.docstrings)
    assert found["longest_string"] == max(len(string.replace("\n", "")) for string in wanted.strings)


def shape(name: str) -> str:
    core = name.strip("_")
    if re.fullmatch(r"[A-Za-z]", core):
        return "single"
    if re.fullmatch(r"[a-z0-9]+", core):
        return "lower"
    if re.fullmatch(r"[a-z0-9_]+", core):
        return "snake"
    if re.fullmatch(r"[A-Z0-9_]+", core):
        return "constant"
    if re.fullmatch(r"[a-z][A-Za-z0-9]+", core):
        return "camel"
    return "pascal" if re.fullmatch(r"[A-Z][A-Za-z0-9]+", core) else "other"


@pytest.mark.parametrize("name", FILES)
def test_forms_of_names(name: str) -> None:
    text = (LIBRARY / name).read_text(encoding="utf-8")
    found, names = score(text, "python"), set(Reference(text).names)
    wanted = Counter(map(shape, names))
    for form in ("single", "lower", "snake", "camel", "pascal", "constant", "other"):
        assert found[f"name_{form}"] == pytest.approx(wanted[form] / len(names)), form


@pytest.mark.parametrize("name", FILES)
def test_type_annotations_and_keywords_as_ast_counts_them(name: str) -> None:
    text = (LIBRARY / name).read_text(encoding="utf-8") + textwrap.dedent(
        """
        count: int = 3

        def first(items: list[int], *more: str, key: dict[str, int] = {"a": 1}) -> int:
            limit: int = sorted(items, key=lambda x: x)[0:1]
            return {1: 2}[limit] if items[1:2] else 0
        """
    )
    found, tree = score(text, "python"), list(ast.walk(ast.parse(text)))
    annotated = sum(isinstance(node, ast.AnnAssign) for node in tree)
    annotated += sum(isinstance(node, ast.arg) and node.annotation is not None for node in tree)
    annotated += sum(isinstance(node, ast.FunctionDef) and node.returns is not None for node in tree)
    lines = found["code_lines"]
    assert found["type_annotations"] * lines == pytest.approx(annotated)
    functions = sum(isinstance(n, ast.FunctionDef | ast.Lambda) for n in tree)
    assert found["kw_functions"] * lines == pytest.approx(functions)
    assert found["kw_classes"] * lines == pytest.approx(sum(isinstance(n, ast.ClassDef) for n in tree))
    returns = sum(isinstance(n, ast.Return | ast.Yield | ast.YieldFrom) for n in tree)
    assert found["kw_returns"] * lines == pytest.approx(returns)
    assert found["asserts"] * lines == pytest.approx(sum(isinstance(n, ast.Assert) for n in tree))


# ---- made files of other languages: (language, text, code, comment and blank lines)

MADE = [
    ("c", '/* a\n\n b */\nint x = 1; // c\n#include <a.h>\nchar *s = "/* no */";\n', 3, 2, 1),
    ("cpp", "auto s = R\"x(\n// text\n)x\"; // c\nint n = 1'000'000; char c = '\"';\n// d\n", 4, 1, 0),
    ("java", '/** doc */\nclass A { // x\n String s = """\n // no\n """;\n}\n', 5, 1, 0),
    ("rust", '/* a /* b */ c */\nfn f<\'a>(x: &\'a str) {} // "\nlet r = r#"// "no" "#;\n//! doc\n', 2, 2, 0),
    ("javascript", "const r = /['\"`/*]/g; // c\nconst t = `\n// no\n`;\n/* c */ f()\n", 5, 0, 0),
    ("typescript", "// a\nlet x = a / b / c; /* b\n*/\n", 1, 2, 0),
    ("go", "package a\n// c\nvar s = `\n// no\n`\n", 4, 1, 0),
    ("shell", "#!/bin/sh\ncat <<EOF\n# no\nEOF\necho $# ${#x} # c\n\n# d\n", 4, 2, 1),
    ("php", "<?php\n# a\n$s = <<<X\n// no\nX;\n$t = 'it\\'s'; // c\n", 5, 1, 0),
    ("ruby", '=begin\ntext\n=end\nx = "#{y}" # c\ny = <<~A\n  # no\n  A\n', 4, 3, 0),
    ("lua", "--[[ a\nb ]]\nlocal s = [==[\n-- no ]] \n]==] -- c\n-- d\n", 3, 3, 0),
    ("haskell", "{- a {- b -} c -}\nx' = 'a' -- c\n-- | doc\n", 1, 2, 0),
    ("sql", "SELECT 'it''s -- no' -- c\n/* a\n*/ FROM t\n", 2, 1, 0),
    ("html", "<!-- a\nb -->\n<p>don't</p>\n", 1, 2, 0),
    ("perl", "my $x = 1; # c\n\n=pod\n\ntext\n\n=cut\n$y = 's';\n", 2, 3, 3),
    ("ocaml", "(* a (* b *) c *)\nlet x = 'a'\n", 1, 1, 0),
    ("markdown", "# title\n\ntext # no\n", 2, 0, 1),
    ("json", '{"a": "// no"}\n', 1, 0, 0),
    ("makefile", "# c\nall:\n\techo $(X)#no\n", 2, 1, 0),
]


@pytest.mark.parametrize(("language", "text", "code", "comments", "blank"), MADE, ids=[case[0] for case in MADE])
def test_lines_of_code_and_comments(language: str, text: str, code: int, comments: int, blank: int) -> None:
    for ending in ("\n", "\r\n", "\r"):
        found = score(text.replace("\n", ending), language)
        assert (found["code_lines"], found["comment_lines"], found["blank_lines"]) == (code, comments, blank), ending


def test_a_licence_is_told_from_other_comments() -> None:
    licence = "# Copyright 2020 A. Author\n# Licensed under the MIT licence.\n"
    found = score(licence + "\n# The module.\nx = 1\n", "python")
    total = len(licence) + len("\n# The module.\nx = 1\n")
    assert found["licence_share"] * total == pytest.approx(len(licence) - 2)
    assert found["comment_share"] * total == pytest.approx(len("# The module."))
    # A comment that speaks of a licence below the code is a comment.
    assert score("x = 1\n" + licence, "python")["licence_share"] == 0
    block = "/*\n * Copyright\n\n * text\n */\nint x;\n"
    assert score(block, "c")["licence_share"] * len(block) == pytest.approx(len("/* * Copyright * text */"))


# ---- counts of single things: (language, text, column, count in the file)

COUNTED = [
    ("python", "print(1)\nx.print(2)\nprint\n", "prints", 2),
    ("javascript", "console.log(1); a.console.log(2); log(3)", "prints", 1),
    ("cpp", "std::cout << 1; cout << 2; x.cout;", "prints", 2),
    ("rust", 'println!("a"); let println = 1;', "prints", 1),
    ("python", "name = input('?')\ninput = 3\n", "console_reads", 1),
    ("python", "magic = 17\nx = 0 + 1 + 2 + 10 + 100 + 1000 + 1.0 + 3\nLIMIT = 55\n", "magic_numbers", 2),
    ("c", "int x = 0x1F + 2UL + 100u + 1.5;\n#define N 12\n", "magic_numbers", 3),
    ("javascript", "f(a => a + 3.14)", "magic_numbers", 1),
    ("python", "# TODO a\n# a TODOs b\n# FIXME: x, HACK y\nTODO = 1\n", "todos", 3),
    ("python", "if a and b or c:\n    pass\nwhile x:\n    pass\n", "decisions", 4),
    ("c", "for (;;) if (a && b || c) x = d ? 1 : 2;", "decisions", 5),
    ("typescript", "function f(a: string, b?: number): void { const x: T = {a: 1}; }", "type_annotations", 4),
    ("javascript", "expect(a); assert.equal(b)", "asserts", 2),
]


@pytest.mark.parametrize(("language", "text", "column", "count"), COUNTED)
def test_counts(language: str, text: str, column: str, count: int) -> None:
    found = score(text, language)
    lines = found["code_lines"] + (found["comment_lines"] if column == "todos" else 0)
    assert found[column] * lines == pytest.approx(count)


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("python", "try:\n    f()\nexcept:\n    g()\n", 1),
        ("python", "try:\n    f()\nexcept (A, B) as e:\n    pass\n", 1),
        ("python", "try:\n    f()\nexcept A[1:2]:\n    # why\n    pass\nexcept B:\n    h()\n", 1),
        ("java", "try { f(); } catch (A e) { } catch (B e) { g(); }", 1),
        ("cpp", "try { f(); } catch (...) { throw; } catch (const A& a) { /* no */ }", 2),
        ("javascript", "try { f() } catch { /* no */ }; p.catch(() => {})", 1),
        ("javascript", "try { f() } catch (e) { g(e) }", 0),
    ],
)
def test_errors_that_are_caught_and_forgotten(language: str, text: str, count: int) -> None:
    assert score(text, language)["bare_catches"] == count


def test_calls_that_are_risky() -> None:
    assert score("eval(x)\nos.system('ls')\nevaluate(x)\nx.eval(y)\neval = 1\n", "python")["risky_calls"] == 2
    assert score("gets(a); strcpy(b, c); fgets(a, 1, f); a->gets(1);", "c")["risky_calls"] == 2
    assert score("x.unwrap(); y.unwrap_or(1); unsafe { z }", "rust")["risky_calls"] == 2


def test_unused_imports() -> None:
    text = "import os, sys\nimport a.b as c\nfrom x import (y,\n  z as w)\nfrom __future__ import d\nsys.exit(w)\n"
    assert score(text, "python")["unused_imports"] == pytest.approx(3 / 5), "os, c and y of os, sys, c, y, w"
    assert score(text, "python", "pkg/__init__.py")["unused_imports"] is None, "its imports are exports"
    script = "import a, {b as c, d} from 'x';\nimport 'y';\nc(d);\n"
    assert score(script, "javascript")["unused_imports"] == pytest.approx(1 / 3)
    assert score("int x;", "c")["unused_imports"] is None


def test_comments_that_were_code() -> None:
    text = "# x = 3\n# print(x)\n# for a in b:\n# import os\n# A sentence about x.\n# See it (chapter 3)\nx = 1\n"
    assert score(text, "python")["commented_code"] == pytest.approx(4 / 6)
    assert score("// f(x);\n// calls f\n/** if (x) { */\n", "java")["commented_code"] == pytest.approx(1 / 2)


def test_indentation_and_spacing() -> None:
    found = score("def f(a):\n    if a:\n        b=[1,2, 3]\n    c = f(a,b, k=3)\n", "python")
    assert (found["indent_unit"], found["indent_deepest"], found["indent_steady"]) == (4, 8, 1.0)
    assert found["spaced_commas"] == pytest.approx(2 / 4) and found["spaced_assignments"] == pytest.approx(1 / 2)
    tabs = score("{\n\ta;\n\t\tb;\n  c;\n \td;\n}\n", "c")
    assert tabs["indent_tabs"] == pytest.approx(2 / 4) and tabs["indent_mixed"] == pytest.approx(2 / 4)
    assert score("a; b;\nfor (;;) c;\n", "c")["crowded_lines"] == pytest.approx(1 / 2)
    assert score("f(a,\n       b)\nif x:\n  y\n", "python")["indent_unit"] == 2, "continued lines say nothing"


# ---- what needs no language, against the definitions

WORDS = st.lists(st.sampled_from(["a", "bb", "a", "ccc", "é", "0x1F", "\\x41", "=" * 9, "Q" * 70, "\n", "\t", " "]))
TEXTS = WORDS.flatmap(lambda words: st.sampled_from(["", " ", "\n"]).map(lambda gap: gap.join(words) * 2))


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_bytes_and_words_against_the_definitions(text: str) -> None:
    found = raw(text.encode(), "none")
    characters = max(len(text), 1)
    assert found["white_share"] * characters == pytest.approx(sum(c in " \t\n\r\v\f" for c in text))
    assert found["digit_share"] * characters == pytest.approx(sum(c in "0123456789" for c in text))
    assert found["non_ascii"] * characters == pytest.approx(sum(ord(c) > 127 for c in text))
    words = re.split(r"[ \t\n\r\v\f]+", text)
    assert found["longest_word"] == max(len(word.encode()) for word in words)
    runs = [len(list(run)) for byte, run in itertools.groupby(text.encode()) if byte not in b" \t\n\r\v\f"]
    assert found["longest_run"] == max(runs, default=0)
    # StarCoder2's expression itself.
    encoded = sum(len(match) for match in re.findall(r"[a-zA-Z0-9+/\n=]{64,}", text))
    assert found["encoded_share"] * characters == pytest.approx(encoded)
    literal = r"(?<![A-Za-z0-9_\u0080-\U0010ffff])0[xX][0-9a-fA-F]+|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}"
    assert found["hex_share"] * characters == pytest.approx(sum(map(len, re.findall(literal, text))))
    assert 0 < found["lz_ratio"] <= 1


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_repeated_words_and_lines_against_the_definitions(text: str) -> None:
    found = raw(text.encode(), "none")
    words = [word for word in re.split(r"[ \t\n\r\v\f]+", text) if word]
    sizes = [len(word.encode()) for word in words]
    total = max(sum(sizes), 1)
    for n in (2, 3, 4):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        most = max(grams.values(), default=0)
        top = [most * len("".join(gram).encode()) for gram, count in grams.items() if count == most > 1]
        assert found[f"top_{n}gram"] == pytest.approx(min(max(top, default=0), total) / total), n
    for n in (5, 10):
        seen, marked = set(), set()
        for i in range(len(words) - n + 1):
            gram = tuple(words[i : i + n])
            if gram in seen:
                marked.update(range(i, i + n))
            seen.add(gram)
        assert found[f"duplicate_{n}grams"] == pytest.approx(sum(sizes[i] for i in marked) / total), n
    lines = [line.strip(" \t\v\f") for line in re.split(r"[\n\r]", text)]
    lines = [line for line in lines if line]
    repeated = [line for i, line in enumerate(lines) if line in lines[:i]]
    assert found["duplicate_lines"] == pytest.approx(len(repeated) / max(len(lines), 1))
    size = sum(len(line.encode()) for line in lines)
    assert found["duplicate_text"] == pytest.approx(sum(len(line.encode()) for line in repeated) / max(size, 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab é\t", max_size=130), max_size=30))
def test_lengths_of_lines_against_statistics(lines: list[str]) -> None:
    found = raw("\n".join(lines).encode(), "none")
    lengths = sorted(len(line) for line in lines if line.strip(" \t"))
    assert found["code_lines"] == len(lengths)
    if lengths:
        assert found["line_spread"] == pytest.approx(statistics.pstdev(lengths))
        assert found["line_median"] == lengths[(len(lengths) + 1) // 2 - 1]
        assert found["line_p90"] == lengths[-(-len(lengths) * 9 // 10) - 1]
        assert found["long_lines"] == pytest.approx(sum(length > 100 for length in lengths) / len(lengths))


def test_compression_tells_repetition_from_noise() -> None:
    noise = random.Random(1).randbytes(5000)
    assert raw(noise, "none")["lz_ratio"] > 0.98
    assert raw(b"the same line again\n" * 500, "none")["lz_ratio"] < 0.05
    code = (LIBRARY / "textwrap.py").read_bytes()
    assert 0.3 < raw(code, "python")["lz_ratio"] < 0.7


# ---- any bytes

# Each mark that begins or ends something in some language, and words that the lexer follows.
MARKS = rb"""/* */ " \"\"\" / 0x ' ` \ # // --[[ ]] [==[ R"x( )x" r#" "# <<EOF EOF <<< =begin =end {- -} ( ) [ { }
; , = : ? catch (...) except: pass import from lambda def f( print( require( """.split()
PIECES = st.lists(
    st.one_of(st.binary(max_size=6), st.sampled_from([*MARKS, b" ", b"\n", b"\r\n", b"\r", b"\t", b"\xc3\xa9"])),
    max_size=25,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(PIECES, st.sampled_from(["none", *lexis._tables()[0]]))
def test_any_bytes_in_any_language(data: bytes, language: str) -> None:
    found = raw(data, language)
    for name in ("comment_share", "docstring_share", "licence_share", "string_share", "white_share", "encoded_share"):
        assert 0 <= found[name] <= 1, name
    assert found["comment_share"] + found["licence_share"] + found["string_share"] <= 1 + 1e-9
    assert found["docstring_share"] <= found["comment_share"] + 1e-12
    forms = sum(value for name, value in found.items() if name.startswith("name_") and name != "name_numbered")
    assert forms == pytest.approx(1.0 if found["identifiers"] else 0.0)
    # The lines that another part of the package counts.
    offsets = np.array([0, len(data)], np.int64)
    measures = _C.measure_texts(data, offsets)
    if measures["valid"][0]:
        assert found["code_lines"] + found["comment_lines"] + found["blank_lines"] == measures["lines"][0]
    # The same between other texts, whatever they left in the memory that is used again.
    batch = b"import a\n'''" * 40 + data + data
    offsets = np.array([0, 480, 480 + len(data), 480 + 2 * len(data)], np.int64)
    lexes = [lexis.of_language("python"), lexis.of_language(language)]
    values = _C.lexical.measure(batch, offsets, lexes, np.array([0, 1, 1], np.int32))
    assert np.array_equal(values[:, 1], list(found.values()), equal_nan=True)
    assert np.array_equal(values[:, 2], list(found.values()), equal_nan=True)


HOSTILE = {
    "one line": b"x" * 10_000_000,
    "quotes": b"'" * 300_000,
    "slashes": b"/ " * 300_000,
    "brackets": b"([{" * 200_000,
    "comments in comments": b"/*" * 200_000,
    "here-documents without end": b"<<A\n" * 100_000,
    "raw strings without end": b'R"(' * 100_000,
    "new lines": b"\n" * 500_000,
    "imports": b"import a, " * 50_000,
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("language", ["rust", "javascript", "shell", "cpp", "python"])
def test_hostile_texts_take_linear_time(case: str, language: str) -> None:
    # What is quadratic in these sizes runs into the suite's limit of time.
    data = HOSTILE[case] if language == "rust" or case != "one line" else HOSTILE[case][:100_000]
    found = raw(data, language)
    assert found["code_lines"] + found["comment_lines"] + found["blank_lines"] == max(data.count(b"\n"), 1)
    offsets = np.array([0, len(data)], np.int64)
    _C.lexical.imports(data, offsets, [lexis.of_language(language)], np.zeros(1, np.int32))


# ---- the scorer


def test_every_language_has_its_table_and_columns_have_their_types() -> None:
    prose = {"asciidoc", "org", "restructuredtext", "rmarkdown", "literate-agda", "literate-coffeescript"}
    prose |= {"literate-haskell", "git-commits", "github-issues", "jupyter-structured"}
    missing = set(language_names()) - set(lexis._tables()[0]) - prose
    assert not missing
    known = {*language_names(), "default"}
    assert set(lexis._tables()[1]) <= known and set(lexis._tables()[0]) <= {*known, "none", "plain", "hash"}
    texts = ["x = 1\n", "", "int x;", "§"]
    columns = SCORER.score(table(texts, ["python", "go", "no such language", "c"]))
    assert list(columns) == COLUMNS.names
    for name, column in columns.items():
        assert column.type == COLUMNS.field(name).type and len(column) == 4, name
    assert columns["identifiers"].to_pylist()[:2] == [1, 0]


PATHS = ["a/b c.py", "A/b.py", "Foo.java", "x/fooBar.ts", "x/foo.C", "Makefile", "a b/c.py", "Éa.py", "a/.Github"]
PATHS += ["a.B/c", "x/a.B.c", "x/v1.0/Foo", "x/Foo.d/bar", "Zwei Wörter", "x/.py"]


def test_columns_of_the_name_of_a_file() -> None:
    columns = SCORER.score(table(["x\n"] * len(PATHS), "python", PATHS))
    names = [path.rpartition("/")[2] for path in PATHS]
    stems = [Path(name).stem for name in names]
    assert columns["file_spaces"].to_pylist() == [" " in name for name in names]
    assert columns["file_capital"].to_pylist() == [stem[:1].isupper() for stem in stems]
    assert columns["file_mixed_case"].to_pylist() == [stem != stem.lower() for stem in stems]
    nameless = table(["x\n"] * 2, "python").set_column(2, "path", pa.array([None, ""], pa.string()))
    columns = SCORER.score(nameless)
    assert all(columns[name].to_pylist() == [None, None] for name in FILE_NAMES)


def test_chunks_and_missing_languages() -> None:
    whole = table(["import os\n", "x = 1\n", "# c\n"], ["python", "python", "go"])
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert parts["text"].num_chunks == 2
    first, second = SCORER.score(whole), SCORER.score(parts)
    assert all(first[name].equals(second[name]) for name in first)
    nameless = whole.set_column(1, "language", pa.array([None, "", "go"], pa.string()))
    assert SCORER.score(nameless)["comment_lines"].to_pylist() == [0, 0, 0]
    empty = SCORER.score(whole.slice(0, 0))
    assert all(len(column) == 0 for column in empty.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([("", "", "line", False, False, False)], []), "an empty one would begin everywhere"),
        (([("/*", "", "block", False, False, False)], []), "has no closing mark"),
        (([("#", "", "lines", False, False, False)], []), "'lines' is not known"),
        (([], [("x", "verb")]), "'verb' is not known"),
    ],
)
def test_wrong_tables_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _C.lexical.Lexis(*arguments)


def test_wrong_buffers_are_refused() -> None:
    python = [lexis.of_language("python")]
    for offsets, which, message in (
        ([0, 9], [0], "beyond the data"),
        ([0, 3], [1], "beyond the languages"),
        ([0, 3], [0, 0], r"must be \(texts,\)"),
        ([3, 0], [0], "must not fall"),
    ):
        with pytest.raises(ValueError, match=message):
            _C.lexical.measure(b"x=1", np.array(offsets, np.int64), python, np.array(which, np.int32))
