"""Registries: names, places, and what is wrong with a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeshell.errors import UserError
from codeshell.registry import Registry, load

ORDERED = Registry[type]("mapping", {"ordered": "collections:OrderedDict", "counter": "collections:Counter"})


def test_a_name_gives_its_object() -> None:
    assert ORDERED.get("ordered").__name__ == "OrderedDict" and list(ORDERED) == ["ordered", "counter"]


def test_a_place_gives_an_object_of_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    loaded = []\n")
    first = ORDERED.get(f"{path}:Mine")
    assert first is load(f"{path}:Mine"), "a file runs once in a process"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orderd", "did you mean ordered"),
        ("xyz", "is it one of ordered, counter"),
        ("no/such/file.py:Mine", "cannot be loaded"),
        ("no_such_module:Mine", "cannot be loaded"),
        ("collections:NoSuchThing", "no 'NoSuchThing'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ORDERED.get(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_fails_leaves_no_half_module(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("Mine = 1\nraise ValueError('not today')\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            load(f"{path}:Mine")
