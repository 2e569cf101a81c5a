"""Verdicts from statuses, streams and limits, without running anything."""

from __future__ import annotations

import signal

import pytest

from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox.toolchains import reading
from codeshell.evaluate.sandbox.toolchains.compose import Nonce
from codeshell.evaluate.sandbox.toolchains.rows import table
from codeshell.evaluate.verdicts import Verdict

pytest.importorskip("codeshell._C", reason="the launcher's outcome is in the extension's room")

from codeshell.evaluate.sandbox.launch import Outcome

NONCE = Nonce("end-1111", "2222")
END = NONCE.whole
LUA_EXIT = "You are trying to exit but there is still a running instance of LuaUnit."


def outcome(
    status: int | None = 0, out: bytes = b"", err: bytes = b"", cause: str = "ended", ended_by: int | None = None
) -> Outcome:
    return Outcome(status, ended_by, cause, out, err, len(out) + len(err), 0.5, 1.0, 1 << 20)  # type: ignore[arg-type]


def verdict(name: str, found: Outcome) -> tuple[Verdict, str]:
    return reading.program(table()[name], found, Limits(), NONCE)


@pytest.mark.parametrize("name", list(table()))
def test_a_program_passes_with_status_0_and_the_nonce_only(name: str) -> None:
    assert verdict(name, outcome(0, b"noise " + END + b"\n")) == (Verdict.PASS, "")
    assert verdict(name, outcome(0, b"passed"))[0] is Verdict.EARLY_EXIT
    assert verdict(name, outcome(0, NONCE.first.encode() + b"\n" + NONCE.second.encode()))[0] is Verdict.EARLY_EXIT
    # On the other stream it is no proof: tools quote source lines there.
    assert verdict(name, outcome(0, b"", END))[0] is Verdict.EARLY_EXIT
    assert verdict(name, outcome(3, END)) == (Verdict.EXCEPTION, "the tests held, then it ended with status 3")


def test_a_limit_counts_before_all_else() -> None:
    limits = {
        "cpu_time": Verdict.CPU_TIME,
        "wall_time": Verdict.WALL_TIME,
        "memory": Verdict.MEMORY,
        "output": Verdict.OUTPUT,
        "processes": Verdict.EXCEPTION,
    }
    for cause, expected in limits.items():
        found, why = verdict("js", outcome(None, END, b"AssertionError", cause, signal.SIGKILL))
        assert found is expected and why.startswith("more than ")


@pytest.mark.parametrize(
    ("name", "status", "said", "expected", "why"),
    [
        ("js", 1, "p.js:3\n\nAssertionError [ERR_ASSERTION]: 4 == 8\n    at f", "wrong", "4 == 8"),
        (
            "js",
            1,
            "  throw new TypeError('no');\n\nTypeError: no\n    at f\n\nNode.js v20",
            "exception",
            "TypeError: no",
        ),
        ("js", 1, "p.js:2\n\nSyntaxError: Unexpected token ';'", "compile", "Unexpected token"),
        ("js", 134, "FATAL ERROR: JavaScript heap out of memory", "memory", "heap"),
        ("java", 1, 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space', "memory", "heap"),
        ("cpp", 134, "p: p.cpp:8: int main(): Assertion `f() == 8' failed.", "wrong", "f() == 8"),
        (
            "rs",
            101,
            "thread 'main' panicked at p.rs:1:2:\nassertion `left == right` failed\n  left: 1\n right: 2",
            "wrong",
            "left: 1",
        ),
        (
            "rs",
            101,
            "panicked at 'assertion failed: `(left == right)`\n  left: `1`",
            "wrong",
            "left == right",
        ),
        ("swift", 132, "p/p.swift:9: Assertion failed\n", "wrong", "Assertion failed"),
        ("swift", 132, "Swift/Array.swift:1: Fatal error: Index out of range", "exception", "Index out of range"),
        ("jl", 1, "Test Failed at p.jl:9\n  Expression: f(1) == 2\n   Evaluated: 1 == 2", "wrong", "Evaluated: 1 == 2"),
        ("jl", 1, "Error During Test at p.jl:9\n  Test threw exception\n", "exception", "threw"),
        ("go", 1, "--- FAIL: TestF (0.00s)\n    p_test.go:13: expected 8", "wrong", "expected 8"),
        ("go", 2, "--- FAIL: TestF (0.00s)\npanic: no [recovered]", "exception", "panic: no"),
        ("rkt", 1, "----\nFAILURE\nname: check-within\nactual: 4\nexpected: 8\n----", "wrong", "actual: 4"),
        (
            "lua",
            1,
            "1) test_humaneval\np.lua:7: You are trying to exit but there is still a running instance of LuaUnit.",
            "early_exit",
            "exit",
        ),
        ("pl", 1, "", "wrong", "a test did not hold"),
        ("pl", 255, "no at p.pl line 2.", "exception", "no at p.pl"),
        ("sh", 1, "", "wrong", "a test did not hold"),
        ("php", 255, "PHP Parse error:  syntax error on line 3", "compile", "syntax error"),
    ],
)
def test_what_a_failed_program_printed_tells_the_kinds_apart(
    name: str, status: int, said: str, expected: str, why: str
) -> None:
    found, reason = verdict(name, outcome(status, b"", said.encode()))
    assert found == expected
    assert why in reason and "\n" not in reason
    # Whatever it says, without the nonce it never passes.
    assert verdict(name, outcome(0, said.encode()))[0] is Verdict.EARLY_EXIT


def test_a_signal_is_named() -> None:
    found = verdict("cpp", outcome(None, b"", b"", ended_by=signal.SIGSEGV))
    assert found == (Verdict.EXCEPTION, "signal SIGSEGV")


def test_a_compiler_says_why() -> None:
    row, limits = table()["cpp"], Limits(cpu_seconds=7)
    assert reading.compiler(row, outcome(0, b"", b"warning"), limits, "g++") is None
    text = b"In file included from x:\np.cpp:2:16: error: expected ';'\nmore"
    assert reading.compiler(row, outcome(1, b"", text), limits, "g++") == (
        Verdict.COMPILE,
        "p.cpp:2:16: error: expected ';'",
    )
    assert reading.compiler(row, outcome(None, ended_by=11), limits, "g++") == (
        Verdict.COMPILE,
        "g++ ended with signal SIGSEGV and said nothing",
    )
    slow = reading.compiler(row, outcome(None, cause="cpu_time", ended_by=9), limits, "g++")
    assert slow == (Verdict.CPU_TIME, "g++: more than 7 s of CPU time")
