"""The Makefile: what it installs and builds, when again, and what it believes after a command that failed.

It runs on a copy of the tree's head with a Python, a pip and a codeshell that only write down how they were called.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  echo venv >> calls
  mkdir -p "$3/bin"
  cp tools/pip tools/codeshell "$3/bin"
  cp tools/python "$3/bin/python"
else
  exec {executable} "$@"
fi
"""

PIP = """#!/bin/sh
echo "pip $* CUDA=$CODESHELL_CUDA ARCHITECTURES=$CODESHELL_ARCHITECTURES" >> calls
case "$*" in *"$(cat fails 2> /dev/null || echo never)"*) exit 1;; esac
"""

CODESHELL = """#!/bin/sh
echo "codeshell $1" >> calls
echo "codeshell was built"
"""

NVIDIA_SMI = """#!/bin/sh
cat "$GPUS"
"""

Make = Callable[..., list[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(target, capabilities="", code=0, **environment)`: the calls that it leads to; pip's with what it builds."""
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "kernel.cpp").touch()
    (tmp_path / "codeshell").mkdir()
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "setup.py", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = {"python": PYTHON.format(executable=sys.executable), "pip": PIP, "codeshell": CODESHELL}
    for name, text in (tools | {"nvidia-smi": NVIDIA_SMI}).items():
        (tmp_path / "tools" / name).write_text(text)
        (tmp_path / "tools" / name).chmod(0o755)

    def run(target: str, capabilities: str = "", code: int = 0, **environment: str) -> list[str]:
        calls, gpus = tmp_path / "calls", tmp_path / "gpus"
        calls.write_text("")
        if capabilities:
            gpus.write_text(capabilities)
        else:
            gpus.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CODESHELL_", "MAKE"))}
        kept |= {"PATH": f"{tmp_path / 'tools'}{os.pathsep}{kept['PATH']}", "GPUS": str(gpus)}
        done = subprocess.run(
            ["make", target, "PYTHON=tools/python"],
            cwd=tmp_path,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return calls.read_text().splitlines()

    return run


def builds(calls: list[str]) -> list[str]:
    """What each build of the extension was told."""
    return [call.partition(" -e . ")[2] for call in calls if " -e . " in call]


def test_an_installation_has_all_packages_and_is_made_once(make: Make, tmp_path: Path) -> None:
    calls = make("install")
    assert calls[0] == "venv" and calls[-1] == "codeshell info"
    packages = [call for call in calls if call.startswith("pip ") and " -e " not in call]
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert [call.split()[3] for call in packages] == [torch, "-c"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (tmp_path / ".venv" / "base.txt").read_text().splitlines() == needed
    assert builds(calls) == ["CUDA= ARCHITECTURES="]
    assert (tmp_path / ".venv" / ".installed").read_text() == "codeshell was built\n"
    assert make("install") == []


def test_a_change_of_a_source_builds_again_and_installs_no_package(make: Make, tmp_path: Path) -> None:
    make("install")
    after = (tmp_path / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "csrc" / "kernel.cpp", (after, after))
    assert [call.split()[:2] for call in make("install")] == [["pip", "install"], ["codeshell", "info"]]


@pytest.mark.parametrize(
    ("capabilities", "told", "want"),
    [
        ("", {}, "CUDA=0 ARCHITECTURES="),
        ("7.5\n", {}, "CUDA=0 ARCHITECTURES="),
        ("8.6\n", {}, "CUDA= ARCHITECTURES=native"),
        ("7.5\n12.0\n", {}, "CUDA= ARCHITECTURES=native"),
        ("", {"CODESHELL_CUDA": "1"}, "CUDA=1 ARCHITECTURES="),
        ("9.0\n", {"CODESHELL_ARCHITECTURES": "80"}, "CUDA= ARCHITECTURES=80"),
    ],
)
def test_the_demo_builds_for_this_machine(make: Make, capabilities: str, told: dict[str, str], want: str) -> None:
    calls = make("demo", capabilities, **told)
    assert builds(calls) == [want] and calls[-1] == "codeshell run"
    assert make("demo", capabilities, **told) == ["codeshell run"]


def test_what_needs_the_whole_build_makes_it_after_a_demo(make: Make, tmp_path: Path) -> None:
    make("demo")
    assert builds(make("install")) == ["CUDA= ARCHITECTURES="]
    # And the demo then takes that one.
    assert make("demo") == ["codeshell run"]
    assert [path.name for path in (tmp_path / ".venv").glob(".installed*")] == [".installed"]


@pytest.mark.parametrize("target", ["demo", "install"])
@pytest.mark.parametrize("step", ["torch==", "base.txt", "-e ."])
def test_what_failed_is_done_again(make: Make, tmp_path: Path, target: str, step: str) -> None:
    (tmp_path / "fails").write_text(step)
    assert any(step in call for call in make(target, code=2))
    assert not list((tmp_path / ".venv").glob(".installed*"))
    (tmp_path / "fails").unlink()
    calls = make(target)
    assert any(step in call for call in calls) and "venv" not in calls and "codeshell info" in calls


def test_half_an_environment_is_made_again(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "tools" / "python", tmp_path / ".venv" / "bin" / "python")
    assert make("install")[0] == "venv"


def test_a_clean_tree_is_built_again(make: Make) -> None:
    make("demo")
    make("clean")
    assert builds(make("demo")) and builds(make("install"))
    make("clean")
    assert builds(make("install"))
