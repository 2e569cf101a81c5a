"""An extension that cannot be loaded is one line with the remedy, in Python and on the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from codeshell import _C, extension

PACKAGE = Path(extension.__file__).parent
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package without its extension, in a folder that is no checkout."""
    target = tmp_path / "codeshell"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "_C.*"))
    return target


def run(installed: Path, *arguments: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(installed.parent)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed.parent)
    return done.returncode, done.stderr


def message(installed: Path) -> str:
    """What `from codeshell import _C` says; `codeshell info` has to say the same, and nothing else."""
    code = (
        "import codeshell\ntry:\n    from codeshell import _C\nexcept ImportError as e:\n    raise SystemExit(str(e))"
    )
    status, said = run(installed, "-c", code)
    assert status == 1 and said.count("\n") == 1
    assert run(installed, "-m", "codeshell", "info") == (2, f"codeshell: error: {said}")
    return said.strip()


def broken(installed: Path, old: bytes, new: bytes) -> None:
    """This machine's extension, which needs another version of a library."""
    content = Path(_C.__file__).read_bytes()
    assert old in content
    (installed / f"_C{SUFFIX}").write_bytes(content.replace(old, new))


def test_an_extension_that_is_not_built(installed: Path) -> None:
    expected = "the extension codeshell._C is not built; "
    assert message(installed) == f"{expected}install codeshell from its source on this machine"
    # In a checkout the remedy is the command.
    (installed.parent / "setup.py").touch()
    assert message(installed) == f"{expected}build it here: pip install -e {installed.parent}"


def test_an_extension_for_another_python(installed: Path) -> None:
    (installed / "_C.cpython-37m-x86_64-linux-gnu.so").touch()
    expected = f"is built for another Python (.cpython-37m-x86_64-linux-gnu.so, not {SUFFIX}); install codeshell from"
    assert expected in message(installed)


def test_an_extension_that_needs_a_newer_c_library(installed: Path) -> None:
    needed = max(name for name in Path(_C.__file__).read_bytes().split(b"\0") if name.startswith(b"GLIBC_2."))
    newer = b"GLIBC_9." + b"9" * (len(needed) - 8)
    broken(installed, needed + b"\0", newer + b"\0")
    expected = f"is built for a newer C library (glibc) than this machine has (it needs {newer.decode()}); install"
    assert expected in message(installed)


def test_an_extension_that_needs_a_newer_cxx_library(installed: Path) -> None:
    needed = max(name for name in Path(_C.__file__).read_bytes().split(b"\0") if name.startswith(b"GLIBCXX_3.4."))
    newer = b"GLIBCXX_9." + b"9" * (len(needed) - 10)
    broken(installed, needed + b"\0", newer + b"\0")
    said = message(installed)
    assert f"is built for a newer C++ library (libstdc++) than this machine has (it needs {newer.decode()}); " in said
    assert said.endswith("or put a newer libstdc++.so.6 first on LD_LIBRARY_PATH")


def test_an_extension_that_is_no_library(installed: Path) -> None:
    (installed / f"_C{SUFFIX}").write_bytes(b"\x7fELF, but cut off")
    said = message(installed)
    assert said.startswith("the extension codeshell._C cannot be loaded (") and "; install codeshell from" in said


def test_no_file_imports_the_extension_past_the_message() -> None:
    """`from codeshell._C import name` as the first import would show the loader's words."""
    first: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        if path.name != "extension.py" and "from codeshell._C import" in path.read_text(encoding="utf-8"):
            first.append(path.relative_to(PACKAGE).as_posix())
    assert not first
