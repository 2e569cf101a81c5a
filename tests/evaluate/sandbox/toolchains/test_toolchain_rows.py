"""The table of languages: each row is complete, its patterns are patterns, and its proof of end cannot be quoted."""

from __future__ import annotations

import re

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox.toolchains import get
from codeshell.evaluate.sandbox.toolchains.compose import Nonce, compose, fill
from codeshell.evaluate.sandbox.toolchains.rows import find, names, table

REPORT = {"js", "java", "cpp", "swift", "php", "d", "jl", "lua", "r", "rkt", "rs"}
"""The languages of the technical report."""


def test_the_languages_of_the_report_and_seven_more_are_there() -> None:
    assert set(names()) == REPORT | {"go", "ts", "rb", "pl", "scala", "cs", "sh"}


def test_names_and_aliases_mean_one_language_each() -> None:
    seen = [name for short, row in table().items() for name in (short, *row.aliases)]
    assert len(seen) == len(set(seen))
    assert all(find(name.upper()) == find(name) for name in seen)
    aliases = ("javascript", "rust", "julia", "racket", "C++", "c#", "bash")
    assert [find(name) for name in aliases] == ["js", "rs", "jl", "rkt", "cpp", "cs", "sh"]


def test_an_unknown_language_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'cobol': unknown; known: python, cpp, cs, .*ts"):
        get("cobol")
    with pytest.raises(UserError, match="'cobol': unknown"):
        get("lua", {"cobol": "/"})


@pytest.mark.parametrize("name", names())
def test_every_pattern_compiles(name: str) -> None:
    row = table()[name]
    for pattern in (row.broken, row.left, row.wrong, row.raised, row.memory, row.says):
        re.compile(pattern, re.M)
    for change in (*row.rewrite, *row.proof):
        re.compile(change.at)
    for library in row.libraries:
        re.compile(library.uses, re.M)
        # One way to look for it, or nothing would ever be missing.
        assert sum(map(bool, (library.command, library.jar, library.file, library.crates))) == 1


@pytest.mark.parametrize("name", names())
def test_only_running_code_joins_the_halves_of_the_nonce(name: str) -> None:
    row, nonce = table()[name], Nonce.new()
    composed = compose(name, row, Program(name, row.check.code, row.check.tests, style="own"), nonce)
    assert not composed.cannot
    text = "\n".join(composed.files.values())
    # The proof is there once: a program that prints its own source does not print the nonce.
    assert text.count(nonce.first) == text.count(nonce.second) == 1
    assert nonce.whole.decode() not in text
    # Nothing is left to fill in but what the commands get later.
    assert not re.search(r"@[A-Z]+@", text)


@pytest.mark.parametrize("name", names())
def test_commands_name_only_placeholders_that_are_filled_in(name: str) -> None:
    row = table()[name]
    known = {"HEAP", "CLASS", "CLASSPATH", "ARCHIVE", "HEADER", "LINK", "EDITION", "EXTERN", "GOPATH", "GOCACHE"}
    for build in row.builds:
        assert set(build.tools) >= {command[0] for command in build.compile}
        for text in (*build.run, *(part for command in build.compile for part in command), *row.environment.values()):
            assert set(re.findall(r"@([A-Z]+)@", text)) <= known


def test_filling_in_touches_only_what_is_known() -> None:
    assert fill("@A@-@B@-@C@ @a@", {"A": "@B@", "B": "2"}) == "@B@-2-@C@ @a@"


def test_the_traps_of_single_languages_are_in_their_rows() -> None:
    def run(name: str) -> list[str]:
        build = table()[name].builds[0]
        return [*build.run, *(part for command in build.compile for part in command)]

    assert "-ea" in run("java")
    assert "-n" in run("php")
    assert "-O" not in run("swift") and "-Onone" in run("swift")
    assert "opt-level=0" in run("rs")
    assert "./assert.cjs" in run("js")
    assert all("testmode=run-main" in proof.put for proof in table()["d"].proof)
    assert "test-log" in table()["rkt"].proof[0].put
    assert table()["cs"].rewrite[0].put == "CodeshellEnd.Assert"
