"""HumanEval+ (Liu et al. 2023): the problems of HumanEval with, on average, 750 more inputs each.

The set has inputs and a reference solution. The tests made of them run in the judge: they call the reference and the
candidate with copies of the same input and compare, exactly or, for floats, to the set's tolerance. The comparison is
evalplus's; the polynomial's zero is not compared but put into the polynomial, because there may be several.
"""

from __future__ import annotations

import json
from typing import Any

from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.tasks.humaneval import HumanEval

LIMITS = Limits(cpu_seconds=40.0, wall_seconds=240.0)
"""The reference itself takes 6 s of CPU time for the inputs of HumanEval/15 and of HumanEval/139, and the tests call it
beside the candidate."""

_TESTS = """
import copy as _copy
import json as _json
import math as _math

_INPUTS = _json.loads({inputs})
_ATOL = {atol}
_SPACE = {{"__name__": "reference"}}
exec({reference}, _SPACE)
_REFERENCE = _SPACE[{entry_point}]


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _near(found, expected, atol):
    return _number(found) and _number(expected) and abs(found - expected) <= atol + 1e-7 * abs(expected)


def _same(found, expected):
    if found == expected:
        return True
    items = expected if isinstance(expected, (list, tuple)) else [expected]
    atol = _ATOL or (1e-6 if items and all(isinstance(item, float) for item in items) else 0)
    if not atol or type(found) is not type(expected):
        return False
    if not isinstance(expected, (list, tuple)):
        return _near(found, expected, atol)
    return len(found) == len(expected) and all(_near(a, b, atol) for a, b in zip(found, expected))


def check(candidate):
    for number, arguments in enumerate(_INPUTS):
        found = candidate(*_copy.deepcopy(arguments))
{compare}
"""
_COMPARE = """\
        expected = _REFERENCE(*_copy.deepcopy(arguments))
        assert _same(found, expected), f"input {number}: {found!r:.80} is not {expected!r:.80}"
"""
_ZERO = """\
        value = sum(c * _math.pow(found, i) for i, c in enumerate(arguments[0]))
        assert abs(value) <= _ATOL, f"input {number}: the polynomial is {value!r:.80} there"
"""


class HumanEvalPlus(HumanEval):
    """The task `humaneval+`."""

    name = "humaneval+"
    heading = "HumanEval+"

    def program(self, row: dict[str, Any], completion: str) -> Program:
        return Program(
            "python",
            row["prompt"] + completion,
            plus_tests(row),
            row["entry_point"],
            style="humaneval",
            helpers=row["prompt"],
            limits=LIMITS,
        )


def plus_tests(row: dict[str, Any]) -> str:
    """The tests of a problem, which define `check(candidate)`."""
    return _TESTS.format(
        inputs=repr(json.dumps(row["base_input"] + row["plus_input"])),
        atol=repr(row["atol"]),
        reference=repr(row["prompt"] + row["canonical_solution"]),
        entry_point=repr(row["entry_point"]),
        compare=_ZERO if row["entry_point"] == "find_zero" else _COMPARE,
    )
