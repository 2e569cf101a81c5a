"""What tests need of a candidate, read off the tests."""

from __future__ import annotations

import pytest

from codeshell.evaluate.sandbox.python_names import needs


def test_the_function_that_is_called_is_the_candidates() -> None:
    found = needs("assert add(1, 2) == sum([1, 2])\nassert set(add(1, x) for x in [1]) == {2}")
    assert found.stubs == ["add"] and not found.classes and not found.call_check


def test_check_is_called_where_the_tests_do_not() -> None:
    check = "def check(candidate):\n    assert candidate(1) == 2\n"
    assert needs(check, entry_point="f").call_check
    assert not needs(check + "check(f)\n", entry_point="f").call_check
    assert needs(check + "check(f)\n", entry_point="f").stubs == ["f"]


def test_helpers_of_the_prompt_are_no_stubs() -> None:
    prompt = "import math\ndef poly(xs, x):\n    return x\ndef find_zero(xs):\n    '''text'''\n"
    found = needs("def check(f):\n    assert poly([1], f([1])) < 1", helpers=prompt, entry_point="find_zero")
    assert found.stubs == ["find_zero"]


def test_a_module_without_an_import_is_no_stub() -> None:
    found = needs("assert size((1, 2)) == sys.getsizeof((1, 2))")
    assert (found.stubs, found.modules) == (["size"], ["sys"])


def test_a_builtin_is_the_candidates_only_where_nothing_else_is() -> None:
    assert needs("assert sum(10, 15) == 6\nassert sum(100, 150) == 93").stubs == ["sum"]
    assert needs("assert abs(f(1) - 2) < 1e-6").stubs == ["f"]
    assert needs("assert len([1]) == 1\nassert abs(1) == 1").stubs == []


@pytest.mark.parametrize(
    "tests",
    [
        "assert longest([Pair(5, 24), Pair(15, 25)], 2) == 1",
        "s = Stack()\ns.push(1)\nassert s.pop() == 1",
        "assert Stack().size() == 0",
        "assert isinstance(make(1), Pair)",
        "with Pool() as pool:\n    assert pool.run() == 1",
    ],
)
def test_tests_of_classes_are_seen(tests: str) -> None:
    assert needs(tests).classes


@pytest.mark.parametrize(
    "tests",
    [
        "assert Extract([[1, 2]]) == [1]",
        "assert set(Diff([1], [2])) == {1}",
        "def check(f):\n    pass\ncheck(Strongest)",
    ],
)
def test_a_function_with_a_capital_letter_is_no_class(tests: str) -> None:
    found = needs(tests)
    assert not found.classes and len(found.stubs) == 1


def test_a_setup_that_uses_the_candidate_needs_its_process() -> None:
    assert needs("assert height(root) == 1", setup="root = node(1)").classes
    assert not needs("assert height(root) == 1", setup="root = [1]").classes


@pytest.mark.parametrize(
    "tests",
    [
        "import os",
        "import sys\nsys.setrecursionlimit(10)",
        "import math\nmath.pi = 3",
        "import random\nrandom.__dict__",
        "from . import x",
        "setattr(f, 'a', 1)",
        "eval('1')",
        "f.__globals__",
        "__builtins__",
        "try:\n    f()\nexcept:\n    pass",
        "def g():\n    global x\n    x = 1",
        "import sys\nsys.modules.clear()",
        "open('x')",
    ],
)
def test_tests_that_may_leave_something_get_a_process(tests: str) -> None:
    assert not needs(tests + "\nassert f(1) == 1").leaves_nothing


def test_usual_tests_leave_nothing() -> None:
    tests = "import math, random\nMETADATA = {}\ndef check(candidate):\n    for i in range(9):\n"
    tests += "        assert math.fabs(candidate(random.randint(1, 2))) < 1, 'off'\n"
    assert needs(
        tests, entry_point="f", helpers="from typing import List\ndef f(x: List[int]):\n    pass"
    ).leaves_nothing


def test_tests_that_are_no_python_are_an_error() -> None:
    with pytest.raises(SyntaxError):
        needs("assert f(1) ==")
    # Helpers may be: the prompt of an infilling problem ends anywhere.
    assert needs("assert f(1) == 1", helpers="def f(x):\n    return (").stubs == ["f"]
