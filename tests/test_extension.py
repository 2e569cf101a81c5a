"""An extension that cannot be loaded is one line with the remedy, in Python and on the command line."""

from __future__ import annotations

import os
import re
import shutil
import site
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
    # Without `site`: the hook of an editable installation would find the extension of the checkout.
    folders = [str(installed.parent), *site.getsitepackages()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-S", *arguments]
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


def of_a_newer_system(installed: Path, library: str) -> str:
    """This machine's extension, but what it needs of a library is a version that no machine has: its name."""
    content = Path(_C.__file__).read_bytes()
    names = re.findall(rf"\0({library}_[\d.]+)(?=\0)".encode(), content)
    needed = max(names, key=lambda name: [int(part) for part in name.split(b"_")[1].split(b".")])
    newer = re.sub(rb"\d", b"9", needed)
    (installed / f"_C{SUFFIX}").write_bytes(content.replace(needed + b"\0", newer + b"\0"))
    return str(newer.decode())


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
    newer = of_a_newer_system(installed, "GLIBC")
    said = message(installed)
    assert f"is built for a newer C library (glibc) than this machine has (it needs {newer}); install" in said


def test_an_extension_that_needs_a_newer_cxx_library(installed: Path) -> None:
    newer = of_a_newer_system(installed, "GLIBCXX")
    said = message(installed)
    assert f"is built for a newer C++ library (libstdc++) than this machine has (it needs {newer}); install" in said
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
