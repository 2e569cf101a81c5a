"""Programs of every language whose toolchain is here, judged in the sandbox at the machine's best level.

`cases.toml` has a wrong, a raising, an early leaving and a broken program for each language; a language without its
toolchain is skipped with the package to install. With the project's data at hand, `lang_cases.jsonl` adds the same
kinds in the form of MultiPL-E. What is too slow for a suite runs in benchmarks/evaluate_languages.py.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox.toolchains import Toolchain, get, names, rows
from codeshell.evaluate.verdicts import Verdict

pytest.importorskip("codeshell._C", reason="the extension is not built, and the sandbox is in it")

from codeshell.evaluate.sandbox import levels

CASES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("cases.toml").read_text())
KINDS = {"wrong": "wrong", "raises": "exception", "leaves": "early_exit", "broken": "compile"}
SLOW = {"scala", "ts"}
"""Languages whose compilers take four seconds and more for each program."""

DATA = Path(os.environ.get("CODESHELL_EVALUATION_DATA", Path(__file__).resolve().parents[5] / "shared/data/evaluate"))
LANG_CASES = DATA / "lang_cases.jsonl"


@cache
def level() -> levels.Level:
    try:
        return levels.require().level
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")


@cache
def toolchain(name: str) -> Toolchain:
    return get(name)


def ready(name: str, style: str = "") -> Toolchain:
    if name in SLOW:
        pytest.skip(f"{name}: four seconds and more for each program; benchmarks/evaluate_languages.py runs it")
    missing = toolchain(name).missing(style)
    if missing:
        pytest.skip(f"{name}: {missing}")
    return toolchain(name)


@pytest.mark.parametrize("name", names())
def test_every_kind_of_program_gets_its_verdict(name: str) -> None:
    made = ready(name)
    judged = {}
    for kind, expected in KINDS.items():
        found = made.judge(Program(name, CASES[name][kind], made.row.check.tests, style="own"), level())
        assert found.verdict == CASES[name].get("expect", {}).get(kind, expected), (kind, found)
        assert found.why and found.level == level() and found.toolchain == made.version()
        judged[kind] = found
    # A program that leaves early has made the toolchain prove itself with its own right program.
    assert int(level()) in made._works
    # Nothing of the nonce is in what is told: equal programs give equal results.
    assert not any(re.search(r"end-[0-9a-f]{16}", found.output + found.why) for found in judged.values())


@pytest.mark.parametrize("name", names())
def test_the_cases_of_multipl_e(name: str) -> None:
    if not LANG_CASES.exists():
        pytest.skip(f"{LANG_CASES} is not there")
    made = ready(name, "multipl-e")
    for case in map(json.loads, LANG_CASES.read_text().splitlines()):
        # Broken programs are among our own.
        if case["language"] != name or case["kind"] == "syntax":
            continue
        # These have an import for their own proof, and without a use it does not compile.
        prompt = case["prompt"].replace('    "os"\n', "") if "os." not in case["completion"] else case["prompt"]
        found = made.judge(Program(name, prompt + case["completion"], case["tests"], style="multipl-e"), level())
        assert found.passed == (case["expect"] == "pass"), (case["kind"], found)
        if case["kind"] == "bad":
            assert found.verdict is Verdict.WRONG, found


def test_text_after_the_end_of_php_is_no_proof() -> None:
    # `?>` turns the tests, with the halves of the nonce, into text that is printed.
    made = ready("php")
    found = made.judge(
        Program("php", "<?php\nfunction twice($x) { }\n?>\n", made.row.check.tests, style="own"), level()
    )
    assert found.verdict is Verdict.EARLY_EXIT


@pytest.mark.parametrize(("name", "end"), [("pl", "__END__"), ("rb", "__END__")])
def test_a_program_that_hides_its_tests_does_not_pass(name: str, end: str) -> None:
    made = ready(name)
    found = made.judge(Program(name, f"{made.row.check.code}{end}\n", made.row.check.tests, style="own"), level())
    assert found.verdict is Verdict.EARLY_EXIT


def test_console_assert_throws() -> None:
    made = ready("js")
    tests = "console.assert(twice(4) === 8, 'four')\n"
    good = made.judge(Program("js", made.row.check.code, tests, style="humaneval-x"), level())
    assert good.verdict is Verdict.PASS, good
    bad = made.judge(Program("js", CASES["js"]["wrong"], tests, style="humaneval-x"), level())
    assert bad.verdict is Verdict.WRONG and "Assertion failed four" in bad.why


def test_assert_that_the_candidate_switched_off_is_on_again() -> None:
    made = ready("cpp")
    code = CASES["cpp"]["wrong"] + "#undef assert\n#define assert(held) ((void)0)\n"
    assert made.judge(Program("cpp", code, made.row.check.tests, style="own"), level()).verdict is Verdict.WRONG


def test_limits_decide_by_their_names() -> None:
    made = ready("pl")
    limits = Limits(cpu_seconds=0.5, wall_seconds=20, memory=256 << 20, drained_output=1 << 20)

    def verdict(body: str, limits: Limits = limits) -> Verdict:
        code = f"sub twice {{\n    {body}\n}}\n"
        return made.judge(Program("pl", code, made.row.check.tests, style="own", limits=limits), level()).verdict

    assert verdict("1 while 1;") is Verdict.CPU_TIME
    assert verdict("print 'x' x 65536 while 1;") is Verdict.OUTPUT
    assert verdict("my @a; push @a, 'x' x 1048576 while 1;") is Verdict.MEMORY
    assert verdict("sleep 30;", Limits(wall_seconds=0.5)) is Verdict.WALL_TIME


def test_a_compiler_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ready("cpp")
    monkeypatch.setattr(made, "row", msgspec.structs.replace(made.row, compile_seconds=0.5))
    code = "constexpr long slow(long n) { return n < 2 ? n : slow(n - 1) + slow(n - 2); }\n"
    code += "static_assert(slow(60) > 0);\nlong twice(long x) { return 2 * x; }\n"
    limits = Limits(cpu_seconds=0.4)
    found = made.judge(Program("cpp", code, made.row.check.tests, style="own", limits=limits), level())
    assert found.verdict is Verdict.CPU_TIME and found.why == "g++: more than 0.5 s of CPU time"


def test_a_toolchain_that_does_not_work_in_the_sandbox_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ready("sh")
    made = get("sh")
    wrong = rows.Check("twice() {\n    echo 9\n", made.row.check.tests)
    monkeypatch.setattr(made, "row", msgspec.structs.replace(made.row, check=wrong))
    failing = Program("sh", "exit 3\n", "", style="own")
    with pytest.raises(UserError, match=r"Bash: bash .* does not work in the sandbox .*: its check ends with wrong"):
        made.judge(failing, level())
    # A toolchain that some program has passed with needs no proof.
    assert made.judge(Program("sh", "true\n", "", style="own"), level()).passed
    assert made.judge(failing, level()).verdict is Verdict.EXCEPTION
