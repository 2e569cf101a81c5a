"""Programs: everything that decides a verdict is in the key, and nothing else is; limits are checked."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits, Program

PROGRAM = Program("python", "def f(): pass", "def check(c): assert c() is None", "f")


def changed(value: Any) -> Any:
    return f"{value} " if isinstance(value, str) else value * 2


def test_every_field_is_in_the_key() -> None:
    keys = {PROGRAM.key("CPython 3.11.7", 3)}
    for field in fields(Program):
        if field.name != "limits":
            keys.add(replace(PROGRAM, **{field.name: changed(getattr(PROGRAM, field.name))}).key("CPython 3.11.7", 3))
    for field in fields(Limits):
        limits = replace(PROGRAM.limits, **{field.name: changed(getattr(PROGRAM.limits, field.name))})
        keys.add(replace(PROGRAM, limits=limits).key("CPython 3.11.7", 3))
    keys |= {PROGRAM.key("CPython 3.11.8", 3), PROGRAM.key("CPython 3.11.7", 4)}
    assert len(keys) == 1 + (len(fields(Program)) - 1) + len(fields(Limits)) + 2


def test_the_parts_are_kept_apart() -> None:
    # The same text, cut elsewhere: joined, the two would be equal.
    assert replace(PROGRAM, code="ab", tests="c").key("", 1) != replace(PROGRAM, code="a", tests="bc").key("", 1)


def test_equal_programs_have_equal_keys() -> None:
    assert PROGRAM.key("x", 2) == replace(PROGRAM).key("x", 2)
    # A model may write a lone surrogate.
    assert replace(PROGRAM, code="\ud800").key("x", 2) != replace(PROGRAM, code="\\ud800").key("x", 2)


@pytest.mark.parametrize("field", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_is_more_than_zero(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        replace(Limits(), **{field: value})  # type: ignore[arg-type]
