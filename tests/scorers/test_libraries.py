"""Imports by language against what was written, Python's against ast; packages, own modules, and what a corpus adds."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.engine import LocalEngine
from codeshell.engine.files import read_json
from codeshell.errors import UserError
from codeshell.scorers import lexis
from codeshell.scorers.lexical import Lexical
from codeshell.scorers.libraries import (
    KNOWN,
    OWN,
    STANDARD,
    UNKNOWN,
    Libraries,
    check_tables,
    family,
    package_of,
)

LIBRARY = Path(ast.__file__).parent


def table(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    """Documents of (text, language, path, repo)."""
    names = ("text", "language", "path", "repo")
    types = (pa.large_string(), pa.string(), pa.string(), pa.string())
    return pa.table(
        {
            name: pa.array(list(column), kind)
            for name, column, kind in zip(names, zip(*rows, strict=True), types, strict=True)
        }
    )


def score(text: str, language: str, path: str = "a/b.x", repo: str = "o/r") -> dict[str, Any]:
    columns = Libraries().score(table([(text, language, path, repo)]))
    return {name: pa.array(column).to_pylist()[0] for name, column in columns.items()}


def modules(data: bytes, language: str) -> list[tuple[str, int]]:
    """(module, kind) of every import of a text."""
    offsets = np.array([0, len(data)], np.int64)
    text, bounds, kinds, counts = _C.lexical.imports(
        data, offsets, [lexis.of_language(language)], np.zeros(1, np.int32)
    )
    assert counts.tolist() == [len(kinds)] and bounds[-1] == len(text)
    return [(text[a:b].decode(), k) for a, b, k in zip(bounds, bounds[1:], kinds.tolist(), strict=False)]


# (language, text, the modules that it imports; a relative one in round brackets, a quoted header in square ones)
WRITTEN = [
    (
        "python",
        "import a.b as c, d\nfrom e.f import (g,\n  h)\nfrom . import i\nfrom ..j import k\n",
        "a.b d e.f (.) (..j)",
    ),
    ("python", '"""\nimport no\n"""\n# import no\nx = "import no"\nif x:\n    import yes\n', "yes"),
    ("python", "try: import a\nexcept E as e: raise F from e\ndef g():\n    yield from h\n", "a"),
    (
        "javascript",
        "import a, {b} from 'c';\nimport 'd'\nexport * from \"./e\";\nconst f = require('@g/h/i');\n",
        "c d (./e) @g/h/i",
    ),
    (
        "typescript",
        "import type {A} from 'b';\nimport(`c`);\nArray.from('d'); // from 'e'\nlet s = \"from 'f'\";",
        "b c",
    ),
    (
        "java",
        "package a.b;\nimport java.util.List;\nimport static org.junit.Assert.*;\n// import no;\n",
        "java.util.List org.junit.Assert",
    ),
    ("kotlin", "import a.b.C\nimport d.e.f as g\n", "a.b.C d.e.f"),
    ("scala", "import a.b.{C, D}\nimport e.f._\n", "a.b e.f._"),
    (
        "c-sharp",
        "using System;\nusing A = B.C;\nusing static D.E;\nusing (var x = y) {}\nusing var z = w;\n",
        "System B.C D.E",
    ),
    (
        "go",
        'package a\nimport "fmt"\nimport (\n\t"net/http" // c\n\n\tx "github.com/a/b/v2"\n\t_ "./d"\n)\n',
        "fmt net/http github.com/a/b/v2 (./d)",
    ),
    (
        "rust",
        'use std::io;\npub use serde::{Serialize};\nuse crate::a;\nextern crate b;\nextern "C" {}\n// we use no\n',
        "std serde (crate) b",
    ),
    (
        "c",
        '#include <stdio.h>\n# include "a/b.h"\n#include MACRO\nint include(int x);\n/* #include <no.h> */\n',
        "stdio.h [a/b.h]",
    ),
    (
        "php",
        "<?php\nuse A\\B\\C as D, E\\F;\nuse function G\\h;\n$f = function () use ($x) {};\nclass X { use T; }\n",
        "A\\B\\C E\\F G\\h",
    ),
    ("ruby", "require 'a/b'\nrequire_relative 'c'\nrequire(\"d\")\n# require 'no'\n", "a/b (c) d"),
    ("perl", "use strict;\nuse 5.010;\nuse v5.36;\nuse Foo::Bar qw(a);\nrequire Baz;\n", "strict Foo::Bar Baz"),
    ("lua", "local a = require 'b.c'\nlocal d = require(\"e\")\n-- require 'no'\n", "b.c e"),
    ("r", "library(dplyr)\nrequire('ggplot2')\nrequireNamespace(\"x.y\")\nsource('a.R')\n", "dplyr ggplot2 x.y (a.R)"),
    ("julia", 'using A, B.C\nusing D: e\nimport .F\ninclude("g.jl")\n', "A B.C D (.F) (g.jl)"),
    (
        "dart",
        "import 'dart:io';\nimport 'package:http/http.dart' as http;\nexport 'src/a.dart';\n",
        "dart:io package:http/http.dart src/a.dart",
    ),
    ("haskell", "import qualified Data.Map as M\nimport Data.List (sort)\n-- import No\n", "Data.Map Data.List"),
    ("swift", "import Foundation\nimport class UIKit.UIView\n", "Foundation UIKit.UIView"),
    ("ocaml", "open Core\nlet x = 1\n", "Core"),
    ("sql", "import a", ""),
]


@pytest.mark.parametrize(("language", "text", "wanted"), WRITTEN)
def test_imports_as_they_are_written(language: str, text: str, wanted: str) -> None:
    found = [
        f"({name})" if kind == 1 else f"[{name}]" if kind == 2 else name
        for name, kind in modules(text.encode(), language)
    ]
    assert found == wanted.split()


@pytest.mark.parametrize(
    "name", ["argparse.py", "tarfile.py", "pdb.py", "pydoc.py", "unittest/mock.py", "asyncio/base_events.py"]
)
def test_imports_of_python_as_ast_sees_them(name: str) -> None:
    text = (LIBRARY / name).read_text(encoding="utf-8")
    wanted = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            wanted += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted.append(("." * node.level + (node.module or ""), int(node.level > 0)))
    assert sorted(modules(text.encode(), "python")) == sorted(wanted)


@pytest.mark.parametrize(
    ("language", "module", "kind", "package"),
    [
        ("python", "PIL.Image", KNOWN, "Pillow"),
        ("python", "os.path", STANDARD, "os"),
        ("python", "asyncore", STANDARD, "asyncore"),
        ("python", "nobody_has_this", UNKNOWN, "nobody_has_this"),
        ("javascript", "lodash/fp", KNOWN, "lodash"),
        ("typescript", "@babel/core/lib", KNOWN, "@babel/core"),
        ("vue", "node:fs", STANDARD, "fs"),
        ("java", "org.springframework.boot.Run", KNOWN, "spring"),
        ("java", "javax.swing.JFrame", STANDARD, "javax"),
        ("java", "org.apache.unheard.Of", UNKNOWN, "org.apache"),
        ("kotlin", "kotlinx.coroutines.launch", KNOWN, "kotlinx-coroutines"),
        ("go", "net/http", STANDARD, "net/http"),
        ("go", "github.com/stretchr/testify/assert", KNOWN, "github.com/stretchr/testify"),
        ("go", "example.com/a/b/c", UNKNOWN, "example.com/a/b"),
        ("rust", "std", STANDARD, "std"),
        ("rust", "serde_json", KNOWN, "serde_json"),
        ("cpp", "boost/asio.hpp", KNOWN, "boost"),
        ("c", "sys/types.h", STANDARD, "sys"),
        ("cpp", "vector", STANDARD, "vector"),
        ("c-sharp", "Microsoft.EntityFrameworkCore.Sqlite", KNOWN, "EntityFrameworkCore"),
        ("c-sharp", "Microsoft.Win32", STANDARD, "Microsoft"),
        ("php", "Illuminate\\Support\\Str", KNOWN, "laravel"),
        ("dart", "dart:io", STANDARD, "dart:io"),
        ("haskell", "Data.Map.Strict", KNOWN, "containers"),
        ("haskell", "Data.List", STANDARD, "Data"),
        ("perl", "List::Util", STANDARD, "List"),
        ("r", "dplyr", KNOWN, "dplyr"),
    ],
)
def test_packages(language: str, module: str, kind: int, package: str) -> None:
    kin = family(language)
    assert kin is not None
    found = package_of(kin, module)
    assert found == (kind, package)


def test_tables_are_whole_and_know_this_python() -> None:
    check_tables()
    python = family("python")
    assert python is not None and python.standard >= sys.stdlib_module_names - {"this"}
    lists = Path(lexis.__file__).parent
    assert sum((lists / name).stat().st_size for name in ("libraries.toml", "library_lists.toml")) < 300_000


def test_columns_of_a_document() -> None:
    text = "import os, sys, numpy as np\nimport numpy.linalg\nfrom PIL import Image\nimport odd\nfrom .x import y\n"
    found = score(text, "python")
    assert (found["libraries"], found["library_names"]) == (2, "Pillow numpy")
    assert (found["standard_imports"], found["unknown_imports"], found["own_imports"]) == (2, 1, 1)
    assert found["library_share"] == pytest.approx(2 / 3)
    assert found["library_bonus"] == pytest.approx(math.log(3) / math.log(4))
    assert score("import numpy, torch, flask, django, rich\n", "python")["library_bonus"] == 1.0
    none = score("x = 1\n", "python")
    assert none["library_share"] is None and none["library_names"] == "" and none["library_bonus"] == 0.0
    assert score("import x from 'y'", "cobol")["unknown_imports"] == 0


def test_own_modules_are_told_by_repository_and_path() -> None:
    text = "import requests\nfrom helpers.net import get\n"
    assert score(text, "python", "src/app.py", "psf/Requests")["own_imports"] == 1
    assert score(text, "python", "src/requests/helpers/app.py")["own_imports"] == 2
    assert score(text, "python", "src/requests.py")["library_names"] == "requests", "the file's own name says nothing"
    java = "import com.acme.a.B;\nimport com.other.C;\n"
    found = score(java, "java", "src/main/java/com/acme/x/Y.java")
    assert (found["own_imports"], found["unknown_imports"]) == (1, 1)
    go = 'import (\n"github.com/gin-gonic/gin/binding"\n"github.com/gin-gonic/gin-contrib"\n)\n'
    found = score(go, "go", "a.go", "gin-gonic/gin")
    assert found["own_imports"] == 1
    # A quoted header that no list has lies in the project; a known one does not, and the standard's is the standard's.
    found = score('#include "mine.h"\n#include "gtest/gtest.h"\n#include "string.h"\n#include <leveldb/db.h>\n', "cpp")
    assert (found["own_imports"], found["library_names"], found["standard_imports"]) == (1, "googletest leveldb", 1)


IMPORTS = st.sampled_from(
    """import a;|from b import (c,; d);|import numpy;|import 'x';|#include <a>;|\"\"\"|x = 1;|#|use a::b\n|require('y');
    import (;|"z";|);|é;|from|import|\\;|import a, ;""".replace(";", "\n").split("|")
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(IMPORTS, max_size=15).map("".join),
    st.sampled_from(["python", "javascript", "go", "c", "rust", "php", "java"]),
)
def test_any_text_and_the_rest_of_it(text: str, language: str) -> None:
    alone = score(text, language)
    # The same in a batch, and after code without an import, which is never lexed.
    rows = [("import q\n", "python", "a", "o/r"), (text, language, "a/b.x", "o/r"), (text, language, "a/b.x", "o/r")]
    batch = Libraries().score(table(rows))
    for name, value in alone.items():
        assert pa.array(batch[name]).to_pylist()[1:] == [value, value], name
    assert modules(text.encode() + b"\n\n" + b"y = 2\n" * 3, language) == modules(text.encode(), language)
    listed = alone["library_names"].split()
    assert len(listed) == alone["libraries"] and listed == sorted(set(listed))


def test_arbitrary_bytes_import_nothing_that_is_not_there() -> None:
    data = bytes(range(256)) * 20 + b"\nimport a\n" + bytes(range(255, -1, -1)) * 20
    for language in ("python", "javascript", "go", "c", "rust", "php", "java", "perl", "ruby", "haskell", "julia", "r"):
        for name, _ in modules(data, language):
            assert name.encode() in data


# ---- what a corpus adds


@dataclass(frozen=True)
class Shards:
    """The part of a corpus that `fit` reads."""

    tables: tuple[pa.Table, ...]

    @property
    def shards(self) -> range:
        return range(len(self.tables))

    def read(self, shard: int) -> Iterator[pa.Table]:
        yield self.tables[shard]


def documents() -> list[tuple[str, str, str, str]]:
    """`common` is imported in five repositories, `rare` in four, `own` many times in one."""
    rows = [(f"import common\n{'import rare' if i < 4 else ''}\n", "python", f"m{i}.py", f"o/r{i}") for i in range(5)]
    rows += [("import own\n", "python", f"x{i}.py", "o/alone") for i in range(9)]
    return [*rows, ("use common;\n", "rust", "a.rs", "o/r0")]


def test_a_corpus_adds_what_many_repositories_import(tmp_path: Path) -> None:
    rows = documents()
    found = []
    for number, cut in enumerate((3, 8, len(rows))):
        home = tmp_path / str(number)
        home.mkdir()
        corpus = Shards(tuple(table(part) for part in (rows[:cut], rows[cut:]) if part))
        scorer = Libraries(from_corpus=True)
        with LocalEngine(1) as engine:
            scorer.fit(corpus, home, engine)  # type: ignore[arg-type]
        found.append((home / "known.json").read_bytes())
        scorer.load(home)
        columns = scorer.score(table(rows))
        assert columns["library_names"].to_pylist()[:6] == ["common"] * 5 + [""]
        assert columns["unknown_imports"].tolist()[:6] == [1, 1, 1, 1, 0, 1]
        assert columns["library_names"].to_pylist()[-1] == "", "counted in each language for itself"
    assert len(set(found)) == 1, "the same for any shards"
    assert read_json(tmp_path / "0" / "known.json")["repositories"] == {"python": 6, "rust": 1}
    assert Libraries().score(table(rows))["library_names"].to_pylist() == [""] * len(rows)


def test_without_the_setting_nothing_is_read(tmp_path: Path) -> None:
    scorer = Libraries()
    scorer.fit(None, tmp_path, None)  # type: ignore[arg-type]
    scorer.load(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="from_corpus: 'yes' is not true or false"):
        Libraries(from_corpus="yes")  # type: ignore[arg-type]


def test_kinds_have_their_places() -> None:
    assert (STANDARD, KNOWN, UNKNOWN, OWN) == (0, 1, 2, 3)


# ---- one walk over the texts for `lexical` and `libraries`


PIECES = ["import a\n", "from b import c\n", "use d\\e;\n", "use f::g;\n", 'require "h"\n', "require('i');\n"]
PIECES += [
    "#include <j.h>\n",
    "import",
    "use ",
    "require",
    "<<~END\n",
    "  END\n",
    "<<<'END'\n",
    "END;\n",
    "x = <<END\n",
]
PIECES += [
    "/* ",
    " */",
    '"',
    "'",
    "'''",
    'r#"',
    "#\n",
    "= /re'",
    "/g\n",
    "[==[",
    "]==]",
    "--[[",
    "]]",
    "\\",
    "(",
    "\n",
    "é",
]
PIECES += [
    " " * 200,
    "x" * 60 + "\n",
    "y = 1\n" * 30,
    "# import k\n",
    "// use l\n",
    "{\n",
    "}\n",
    "'\\u{1F",
    "=begin\n",
    "=end\n",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.sampled_from(["python", "php", "ruby", "perl", "javascript", "rust", "c", "lua", "java", "go", "julia", "html"]),
    st.integers(0, 300),
)
def test_one_walk_gives_what_two_give(text: str, language: str, blanks: int) -> None:
    # The imports alone are looked for in a text that ends 256 bytes after the last of them.
    data = (text + " " * blanks + text).encode()
    arguments = (data, np.array([0, len(data)], np.int64), [lexis.of_language(language)], np.zeros(1, np.int32))
    values, found = _C.lexical.measure_with_imports(*arguments)
    assert values.tobytes() == _C.lexical.measure(*arguments).tobytes()
    alone = _C.lexical.imports(*arguments)
    assert found[0] == alone[0] and all((a == b).all() for a, b in zip(found[1:], alone[1:], strict=True))


@pytest.mark.parametrize("written", [0, 100, 253, 254, 255, 256, 257, 300, 5_000])
def test_the_end_of_the_walk_for_imports_changes_nothing(written: int) -> None:
    """A string, a regular expression and a comment that begin before the end of that text and end after it."""
    fill = "z" * written
    cases = [
        ("ruby", f'require "a"\nx = <<END\nrequire "b"\n{fill}\nEND\n{fill * 2}'),
        ("php", f"<?php\nuse A\\B;\n$x = <<<END\nuse C\\D;\n{fill}\nEND;\n{fill * 2}"),
        ("javascript", f"require('a')\nx = /'{fill}/\nrequire('b')\n{fill * 2}"),
        ("python", f"import a\n'''{fill}import b\n''' {fill}import{fill}"),
        ("python", f"import a{' ' * written}importer{fill}"),
        ("lua", f'require "a" x = [{"=" * written}[ require "b"'),
    ]
    for language, text in cases:
        data = text.encode()
        arguments = (data, np.array([0, len(data)], np.int64), [lexis.of_language(language)], np.zeros(1, np.int32))
        found, alone = _C.lexical.measure_with_imports(*arguments)[1], _C.lexical.imports(*arguments)
        assert found[0] == alone[0] and found[1].tolist() == alone[1].tolist(), (language, text)


def test_imports_are_those_of_the_batch_that_is_scored() -> None:
    """`libraries` takes what `lexical` has found only if it is of the same texts in the same languages."""
    batch = table([("import os, numpy\n", "python", "a.py", "o/r"), ("import b\n", "python", "b.py", "o/r")])
    other = table([("import json\n", "python", "a.py", "o/r"), ("import pandas\n", "python", "b.py", "o/r")])
    none = batch.set_column(1, "language", pa.array(["html", "html"], pa.string()))
    chunks = pa.concat_tables([batch.slice(0, 1), batch.slice(1)])

    def scored(rows: pa.Table) -> list[list[Any]]:
        return [pa.array(column).to_pylist() for column in Libraries().score(rows).values()]

    wanted = {number: scored(rows) for number, rows in enumerate([batch, other, none, batch.slice(1), chunks])}
    for before in (batch, other, none, batch.slice(1), chunks, batch.slice(0, 0)):
        for number, rows in enumerate([batch, other, none, batch.slice(1), chunks]):
            Lexical().score(before)
            # The score stage gives each scorer a table of its own, over the same memory.
            assert scored(rows.select(rows.column_names)) == wanted[number]
