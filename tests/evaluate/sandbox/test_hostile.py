"""The hostile programs: each comes to its right end, gets hold of nothing, and leaves nothing.

They run at the best level of the machine, at the levels below, and as an ordinary user where the tests run as root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import hostile

from codeshell.errors import UserError
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.levels import Level

ROOT = Path(__file__).resolve().parents[3]
TABLE = hostile.table()


def names_for(level: Level) -> list[str]:
    """The programs that a level holds."""
    return [name for name, row in TABLE.items() if row.get("level", 2) <= level]


def proven(level: Level) -> None:
    try:
        levels.prove(level)
    except UserError as error:
        pytest.skip(f"level {level.value} is not to be had here: {error}")


def test_every_program_has_its_row() -> None:
    files = {path.stem for path in hostile.PROGRAMS.glob("*.py")}
    assert files == set(TABLE)
    assert len(files) >= 50
    assert {row["group"] for row in TABLE.values()} == {
        "time", "process", "resource", "crash", "escape", "network", "report",
    }  # fmt: skip


@pytest.fixture(scope="module")
def best() -> Level:
    try:
        proof = levels.require()
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")
    return proof.level


def test_says_the_best_level(best: Level, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nhostile programs: {levels.require().line()}")


@pytest.fixture(scope="module")
def watcher() -> object:
    with hostile.host() as found:
        yield found


@pytest.mark.parametrize("name", TABLE)
def test_is_contained_at_the_best_level(name: str, best: Level, watcher: hostile.Host) -> None:
    if TABLE[name].get("level", 2) > best:
        pytest.skip(f"level {best.value}, the best here, does not cover this")
    assert hostile.attack(name, TABLE[name], best, watcher) + watcher.changes() == []


@pytest.mark.parametrize("level", [Level.NAMESPACES, Level.LANDLOCK])
def test_are_contained_at_lower_levels(level: Level, best: Level) -> None:
    proven(level)
    if level >= best:
        pytest.skip("is the best level, which ran above")
    # Time is held by the same code at all levels.
    names = [name for name in names_for(level) if TABLE[name]["group"] != "time"]
    found = hostile.attack_all(level, names)
    assert {name: what for name, what in found.items() if what} == {}


def test_are_contained_for_an_ordinary_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    python = ordinary_python()
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from helpers import hostile\n"
        "from codeshell.evaluate.sandbox import levels\n"
        "import json\n"
        "level = int(levels.require().level)\n"
        "names = [name for name, row in hostile.table().items() if row.get('level', 2) <= level]\n"
        "print(json.dumps([level, hostile.attack_all(level, names)]))"
    )
    command = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "env",
        python,
        "-c",
        script,
        ROOT,
        ROOT / "tests",
    ]
    done = subprocess.run(
        command, cwd="/tmp", env={"HOME": "/tmp", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=110
    )
    if "UserError" in done.stderr:
        pytest.skip(f"no isolation for an ordinary user: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    level, found = json.loads(done.stdout)
    assert level >= 2
    assert {name: what for name, what in found.items() if what} == {}


def ordinary_python() -> str:
    """A Python that any user may start, and that can load the extension."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not there, so no test as an ordinary user")
    own = os.path.realpath(sys.executable)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (own, f"/usr/bin/python{version}"):
        probe = "import json, sys; sys.path.insert(0, sys.argv[1]); from codeshell import _C"
        command = [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "env",
            python,
            "-c",
            probe,
            ROOT,
        ]
        if subprocess.run(command, cwd="/tmp", capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"no Python {version} that an ordinary user may start, such as /usr/bin/python{version}")
