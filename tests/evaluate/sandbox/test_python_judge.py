"""The judge of Python programs, through its sandbox: what tests may do with answers, and what becomes of each end."""

from __future__ import annotations

import threading

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox import levels, values
from codeshell.evaluate.sandbox.levels import Level
from codeshell.evaluate.sandbox.python_judge import PythonJudge, version
from codeshell.evaluate.verdicts import Judged, Verdict

QUICK = Limits(cpu_seconds=1, wall_seconds=30, memory=1 << 30, drained_output=1 << 20)


def ask(judge: PythonJudge, code: str, tests: str, limits: Limits = QUICK, **more: str) -> Judged:
    return judge.judge(Program("python", code, tests, limits=limits, style="mbpp", **more))


def passes(judge: PythonJudge, code: str, tests: str, **more: str) -> None:
    judged = ask(judge, code, tests, **more)
    assert judged.verdict is Verdict.PASS, judged
    assert judged.toolchain == version() and judged.level == judge.level and not judged.mode


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        # Arguments that the candidate changes are changed in the tests, down to the same inner list.
        (
            "def f(x):\n    x.sort()\n    x[0].append(9)",
            "row = [1]\na = [[2], row]\nf(a)\nassert a == [[1, 9], [2]] and f",
        ),
        ("def f(x):\n    x[0].append(2)", "row = [1]\nf([row])\nassert row == [1, 2]"),
        ("def f(d, s):\n    d['k'] = s.pop()", "d, s = {}, {1}\nf(d, s=s)\nassert d == {'k': 1} and s == set()"),
        # One list at two places is one list there, too.
        ("def f(x):\n    x[0][0] = 1\n    return x[1]", "assert f([[0]] * 2) == [1]"),
        # Generators, also endless ones; keys; functions.
        ("def f():\n    n = 0\n    while True:\n        yield n\n        n += 1", "assert next(f()) == 0"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"),
        ("def f(d):\n    return d.keys()", "assert sorted(f({2: 0, 1: 0})) == [1, 2] and len(f({1: 1})) == 1"),
        ("def f(n):\n    return lambda x: x + n", "assert f(1)(2) == 3"),
        ("def f(x):\n    return map(str, x)", "assert list(f(f([1]))) == ['1']"),
        # Exceptions of builtin types and of types derived from them.
        (
            "class Odd(ValueError):\n    pass\ndef f(x):\n    raise Odd('odd', x)",
            "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
            "        self.assertRaises(ValueError, f, 1)\n        with self.assertRaisesRegex(ValueError, 'odd'):\n"
            "            f(2)",
        ),
        (
            "def f(x):\n    x.append(1)\n    raise KeyError(x)",
            "x = []\ntry:\n    f(x)\nexcept LookupError as error:\n    assert error.args == ([1],) and x == [1]\n"
            "else:\n    assert False",
        ),
        # Types are exact: subclasses arrive as their base.
        ("import collections\ndef f(x):\n    return collections.Counter(x)", "assert type(f('a')) is dict"),
        ("def f(x):\n    return x > 1", "assert f(2) is True and isinstance(f(2), bool)"),
        # Truth of what does not travel.
        ("import re\ndef f(x):\n    return re.match('a', x)", "assert f('a')\nassert not f('b')"),
        # Dataclasses look their module up; the code is not run as a script.
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
            "def f(x):\n    return P(x).x\nif __name__ == '__main__':\n    raise SystemExit",
            "assert f(1) == 1",
        ),
        ("import sys\ndef f():\n    return input() if sys.stdin.read() else 7", "assert f() == 7"),
    ],
)
def test_what_tests_may_do(code: str, tests: str, judge: PythonJudge) -> None:
    passes(judge, code, tests)


@pytest.mark.parametrize(
    ("code", "tests", "verdict", "why"),
    [
        ("def f(x):\n    yield x", "assert f(1) == [1]", "wrong", "f gave <generator object of the candidate>"),
        ("def f(x):\n    return f", "assert f(1) == 1", "wrong", "<function object of the candidate>"),
        ("def f(x):\n    return x + 1", "assert f(1) == 3", "wrong", "assert f(1) == 3; f gave 2"),
        ("def f(x):\n    assert x", "assert f(0) is None", "exception", "f raised AssertionError() in line 2"),
        ("def f(x):\n    return 1 / x", "assert f(0) == 1", "exception", "ZeroDivisionError('division by zero')"),
        ("raise OSError(3)", "assert f(0) == 1", "exception", "OSError(3) in line 1 of the candidate"),
        ("def f(x):\n    return None", "assert f(1)[0] == 1", "exception", "TypeError: 'NoneType' object is not sub"),
        ("def g(x):\n    pass", "assert f(1) == 1", "exception", "the candidate defines no function 'f'"),
        ("f = 3", "assert f(1) == 1", "exception", "the candidate defines no function 'f'"),
        ("def f(:", "assert f(1) == 1", "compile", "SyntaxError: invalid syntax, line 1"),
        ("x = '\0'", "assert f(1) == 1", "compile", "null bytes"),
        ("x = '\ud800'", "assert f(1) == 1", "compile", "surrogates not allowed"),
        ("x = " + "(" * 300 + ")" * 300, "assert f(1) == 1", "compile", "too many nested parentheses"),
        ("def f(x):\n    return f(x)", "assert f(1) == 1", "exception", "RecursionError"),
        ("def f(x):\n    while True: pass", "assert f(1) == 1", "cpu_time", "more than 1 s of CPU time"),
        ("def f(x):\n    return bytearray(2 << 30)", "assert f(1) == 1", "memory", "MemoryError in f"),
        ("def f(x):\n    while True: print('x' * 1000)", "assert f(1) == 1", "output", "more than 1 MiB of output"),
        ("import os\ndef f(x):\n    os.abort()", "assert f(1) == 1", "exception", "the process ended with SIG"),
        ("import os\ndef f(x):\n    os._exit(3)", "assert f(1) == 1", "early_exit", "status 3 before the tests did"),
        ("import os, time\ndef f(x):\n    os.closerange(0, 99)\n    time.sleep(99)", "f(1)", "early_exit", "closed"),
        ("def f(x):\n    return [0] * 3_000_000", "assert f(1) == 1", "wrong", "f gave a value with more than 2,097,1"),
        ("def f(x):\n    x = []\n    x.append(x)\n    return x", "assert f(1)", "wrong", "contains itself"),
        ("def f(x):\n    return 1 << 40_000_000", "assert f(1) == 1", "wrong", "4,194,304 bits"),
        ("def f(x):\n    raise StopIteration", "assert f(1) == []", "exception", "f raised StopIteration() in line 2"),
        # What the tests do themselves.
        ("def f(x):\n    return x", "assert f(1) ==", "not_run", "the tests do not compile: SyntaxError"),
        ("def f(x):\n    return x", "assert 1 == 1", "not_run", "the tests call nothing of the candidate"),
        ("def f(x):\n    return x", "f(1)\nraise SystemExit(1)", "wrong", "the tests ended with 1"),
        ("def f(x):\n    return x", "f(1)\nwhile True: pass", "cpu_time", "the tests used more than 1 s"),
        # Building a set of numbers with one hash is a single instruction of the tests, and quadratic.
        (
            "def f(x):\n    return [n * (2**61 - 1) for n in range(1, 100_000)]",
            "assert len(set(f(1))) == 1",
            "cpu_time",
            "the tests used more than 1 s",
        ),
        # Tests that catch everything do not hide that the candidate is gone.
        ("import os\ndef f(x):\n    os._exit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass", "early_exit", ""),
        (
            "def f(x):\n    exit(0)",
            "import sys\ntry:\n    f(1)\nexcept:\n    pass\nsys.exit(0)",
            "early_exit",
            "status 0",
        ),
    ],
)
def test_every_end_has_its_verdict(code: str, tests: str, verdict: str, why: str, judge: PythonJudge) -> None:
    judged = ask(judge, code, tests)
    assert (judged.verdict.value, why in judged.why) == (verdict, True), judged
    # And the next program is judged as if nothing had happened.
    passes(judge, "def f(x):\n    return x", "assert f(1) == 1")


def test_a_program_that_sleeps_hits_the_wall(judge: PythonJudge) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=0.5)
    judged = ask(judge, "import time\ntime.sleep(60)", "assert f(1) == 1", limits)
    assert judged.verdict is Verdict.WALL_TIME and "more than 0.5 s" in judged.why, judged


def test_setup_runs_after_the_code_and_before_the_tests(judge: PythonJudge) -> None:
    code = "class Node:\n    def __init__(self, x):\n        self.x = x\ndef value(node):\n    return node.x"
    judged = ask(judge, code, "assert value(root) == 1", setup="root = Node(1)")
    assert (judged.verdict, judged.mode) == (Verdict.PASS, "same-process"), judged
    judged = ask(judge, code, "assert value(root) == 2", setup="root = Node(1)")
    assert (judged.verdict, judged.mode, judged.why) == (Verdict.WRONG, "same-process", "assert value(root) == 2")


@pytest.mark.parametrize("argument", ["int", "lambda x: x", "object()"])
def test_arguments_that_do_not_travel_ask_for_one_process(argument: str, judge: PythonJudge) -> None:
    judged = ask(judge, "def f(x, y):\n    return x", f"assert f(1, {argument}) == 1")
    assert (judged.verdict, judged.mode) == (Verdict.PASS, "same-process"), judged


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("import os\nos._exit(0)", "early_exit"),
        ("def f(x, y):\n    raise SystemExit(0)", "early_exit"),
        ("class E:\n    def __eq__(self, o):\n        return True\ndef f(x, y):\n    return E() if x else 1", "pass"),
        ("class E(int):\n    def __eq__(self, o):\n        return True\ndef f(x, y):\n    return E(7)", "wrong"),
        ("def f(x, y):\n    while True: pass", "cpu_time"),
    ],
)
def test_one_process_still_wants_the_end_of_the_tests(code: str, verdict: str, judge: PythonJudge) -> None:
    # An object that is equal to everything passes here: that is why such a verdict is marked.
    judged = ask(judge, code, "assert f(1, int) == 1")
    assert judged.verdict == verdict, judged


def test_a_candidate_cannot_ask_for_one_process(judge: PythonJudge) -> None:
    # The tests pass on what the candidate returned; its size must not change the way of judging.
    code = f"def f(x):\n    return 'x' * {values.MAX_BYTES - 30} if x == 0 else 1"
    judged = ask(judge, code, "assert f([f(0)]) == 1")
    assert (judged.verdict, judged.mode) == (Verdict.WRONG, ""), judged


def test_helpers_of_the_prompt_are_executed_by_the_judge(judge: PythonJudge) -> None:
    prompt = "def twice(x):\n    return 2 * x\n\ndef half(x):\n    '''Undo twice.'''\n"
    tests = "def check(candidate):\n    assert candidate(twice(4)) == 4\n"
    # The candidate's own version of a helper is not asked.
    code = "def twice(x):\n    return 0\ndef half(x):\n    return x // 2"
    judged = judge.judge(Program("python", code, tests, "half", helpers=prompt, limits=QUICK))
    assert judged.verdict is Verdict.PASS, judged


def test_programs_leave_nothing_to_the_next_one(judge: PythonJudge) -> None:
    leave = "import builtins, math, os\nmath.pi = 3\nbuiltins.left = 1\nopen('left', 'w').close()\n"
    leave += "open('/tmp/left', 'w').close()\ndef f(x):\n    return x"
    look = "import builtins, math, os\ndef f(x):\n    return (math.pi > 3, hasattr(builtins, 'left'), os.listdir('.'),"
    look += " os.path.exists('/tmp/left'))"
    passes(judge, leave, "assert f(1) == 1")
    passes(judge, look, "assert f(1) == (True, False, [], False)")
    # Nor do tests that could.
    passes(judge, "def f(x):\n    return x", "import math\nmath.pi = 3\nassert f(math.pi) == 3")
    passes(judge, "def f(x):\n    return x", "import math\nassert f(math.pi) > 3.1")


def test_random_numbers_are_the_same_each_time(judge: PythonJudge) -> None:
    code = "import random\ndef f(x):\n    return random.random()"
    first = ask(judge, code, "assert f(1) == 2").why
    assert ask(judge, code, "assert f(1) == 2").why == first
    assert "f gave 0." in first


def test_what_it_printed_is_kept_clean(judge: PythonJudge) -> None:
    judged = ask(judge, "print('\\x1b[31mred\\x00')\ndef f(x):\n    print('called')\n    return x", "assert f(1) == 2")
    assert judged.output == "\\x1b[31mred\\x00\ncalled\n" and "\n" not in judged.why


def test_a_dead_server_is_replaced(judge: PythonJudge) -> None:
    passes(judge, "def f(x):\n    return x", "assert f(1) == 1")
    assert judge._servers
    for server in judge._servers:
        server.kill()
        passes(judge, "def f(x):\n    return x", "assert f(1) == 1")


def test_judges_of_several_threads_agree(judge: PythonJudge) -> None:
    found: dict[int, list[Judged]] = {}

    def work(worker: int) -> None:
        with PythonJudge(judge.level) as own:
            found[worker] = [ask(own, f"def f(x):\n    return x % {n}", "assert f(3) == 1") for n in (2, 3, 2)]

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in range(2):
        assert [one.verdict for one in found[worker]] == [Verdict.PASS, Verdict.WRONG, Verdict.PASS]


def test_a_program_that_is_too_large_is_not_run(judge: PythonJudge) -> None:
    judged = ask(judge, "#" * values.MAX_BYTES, "assert f(1) == 1")
    assert judged.verdict is Verdict.NOT_RUN and "too large" in judged.why


def test_without_namespaces_each_program_gets_new_servers() -> None:
    try:
        levels.prove(Level.LANDLOCK)
    except UserError as error:
        pytest.skip(f"level 2 is not to be had here: {error}")
    with PythonJudge(Level.LANDLOCK) as low:
        passes(low, "def f(x):\n    return x", "assert f(1) == 1")
        before = low._servers
        assert ask(low, "import os\nos._exit(0)", "assert f(1) == 1").verdict is Verdict.EARLY_EXIT
        assert low._servers is not before
