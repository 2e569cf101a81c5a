"""Builds the kernels for the processor, once a session; see docs/testing-kernels.md."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.fail(f"{name} is needed to build the kernels for the host; pip install -e '.[dev]' brings it")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"the kernels do not build for the host: {' '.join(command)}\n{done.stdout}{done.stderr}", False)


@pytest.fixture(scope="session")
def built_host_kernels() -> ModuleType:
    """The module as built; tests take `host_kernels`, which also sets the seed back."""
    pybind11 = pytest.importorskip("pybind11", reason="pip install -e '.[dev]' brings pybind11, to build kernels")
    build = ROOT / "build" / f"host-{sys.implementation.cache_tag}-{os.uname().machine}"
    build.mkdir(parents=True, exist_ok=True)
    with (build / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (build / "build.ninja").exists():
            _run(
                [
                    *(_tool("cmake"), "-S", str(ROOT / "tests" / "gpu"), "-B", str(build), "-G", "Ninja"),
                    f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
                    f"-DPython_EXECUTABLE={sys.executable}",
                    f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                ]
            )
        _run([_tool("cmake"), "--build", str(build)])
    (library,) = build.glob("host_kernels*.so")
    spec = importlib.util.spec_from_file_location("host_kernels", library)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host_kernels(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The bindings of the kernels as `codeshell._C` has them; they take CPU addresses and run in the processor."""
    if not request.node.get_closest_marker("slow"):
        pytest.fail(
            f"`make test` compiles no kernels: name {request.path.name} in SLOW (tests/helpers/order.py)", False
        )
    built_host_kernels: ModuleType = request.getfixturevalue("built_host_kernels")
    built_host_kernels.set_seed(0)
    built_host_kernels.set_multiprocessors(4)
    built_host_kernels.set_shared_memory(227 * 1024)
    built_host_kernels.set_checks(True)
    built_host_kernels.fail_launch(0)
    yield built_host_kernels


@pytest.fixture
def on_host(host_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tensors of the CPU lie on a Hopper GPU, whose kernels run on the host, those of attention included."""
    from helpers.simulated_gpu import simulate

    return simulate(monkeypatch, host_kernels)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the kernels waits for their build."""
    for item in items:
        if "host_kernels" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(600))
