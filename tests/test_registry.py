"""Registries: names, places, and what is wrong with a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeshell.errors import UserError
from codeshell.registry import Registry, absolute, load

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


def test_a_fingerprint_changes_with_the_file_and_with_the_version(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    version = 3\n")
    first = ORDERED.fingerprint(f"{path}:Mine")
    assert first.startswith("3+")
    loaded = ORDERED.get(f"{path}:Mine")
    assert ORDERED.fingerprint(f"{path}:Mine") == first and ORDERED.get(f"{path}:Mine") is loaded
    path.write_text("class Mine:\n    version = 3\n    edited = True\n")
    assert ORDERED.get(f"{path}:Mine") is loaded, "a run that has begun ends with the code that it began with"
    assert ORDERED.fingerprint(f"{path}:Mine") != first
    assert hasattr(ORDERED.get(f"{path}:Mine"), "edited"), "the text is that of the code which runs"
    assert ORDERED.fingerprint("ordered") == "", "it has no version, and the package's files are not hashed"


def test_a_relative_place_is_of_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"NAME = {name!r}\n")
        monkeypatch.chdir(tmp_path / name)
        found.append(ORDERED.get("mine.py:NAME"))
        assert absolute("mine.py:NAME") == f"{tmp_path / name / 'mine.py'}:NAME"
    assert found == ["a", "b"]
    assert absolute("package.module:NAME") == "package.module:NAME"
