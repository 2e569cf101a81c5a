"""The table of operations, the build, the tests and the benchmarks agree: a place that was forgotten fails here."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell import kernels
from codeshell.cli.bench import benchmarks
from codeshell.cli.info import collect
from codeshell.operations import KERNELS, OPERATIONS, TRITON_KERNELS, Operation

ROOT = Path(__file__).resolve().parents[1]
CSRC, TESTS = ROOT / "csrc", ROOT / "tests"
WITH_KERNELS = [operation for operation in OPERATIONS if operation.kernels]


def cmake_list(name: str) -> set[str]:
    (listed,) = re.findall(rf"set\({name}\n(.*?)\)", (CSRC / "kernels.cmake").read_text(), re.S)
    return {path.removeprefix("csrc/") for path in listed.split()}


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys, codeshell.operations; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_names_are_given_once() -> None:
    for names in ([x.name for x in OPERATIONS], [k.source for x in OPERATIONS for k in x.kernels]):
        assert len(names) == len(set(names))
    benchmarks = [x.benchmark for x in OPERATIONS if x.benchmark]
    assert len(benchmarks) == len(set(benchmarks))


def test_the_kernels_are_those_of_csrc_and_of_the_build() -> None:
    assert set(KERNELS) == set(kernels.source_hashes(CSRC)) == cmake_list("CODESHELL_KERNELS")


@pytest.mark.parametrize("operation", WITH_KERNELS, ids=lambda operation: operation.name)
def test_each_operation_with_kernels_is_bound(operation: Operation) -> None:
    """In `codeshell._C` and in the host's module alike, which both call `bind_kernels`."""
    binding = f"bindings/{operation.name}.cpp"
    assert binding in cmake_list("CODESHELL_KERNEL_BINDINGS")
    assert f"void bind_{operation.name}(py::module_& module)" in (CSRC / binding).read_text()
    _, _, body = (CSRC / "bindings" / "gpu.h").read_text().partition("inline void bind_kernels(")
    assert f"bind_{operation.name}(module);" in body.partition("\n}")[0]
    for module in (CSRC / "bindings" / "module.cpp", TESTS / "gpu" / "module.cpp"):
        assert "bindings::bind_kernels(module);" in module.read_text()


@pytest.mark.parametrize("operation", WITH_KERNELS, ids=lambda operation: operation.name)
def test_each_kernel_has_its_tests(operation: Operation) -> None:
    """On a GPU, on the host (but for the copy, which has no arithmetic), and of what nvcc made of it."""
    assert operation.host_tests or operation.name == "copy"
    cubins = (TESTS / "gpu" / "test_cubins.py").read_text()
    for kernel in operation.kernels:
        assert kernel.serves and kernel.torch and kernel.tests, kernel.source
        assert all((TESTS / test).is_file() for test in (*kernel.tests, *operation.host_tests)), kernel.source
        assert f'"csrc/{kernel.source}"' in cubins, f"{kernel.source} has no row in EXPECTED"


def test_the_kernels_in_triton_are_files_with_tests() -> None:
    """Each is right in the interpreter, compiled for every GPU, and has tests for a GPU."""
    assert set(TRITON_KERNELS) == set(kernels.triton_hashes())
    for operation in OPERATIONS:
        assert not operation.triton or not operation.kernels, "one way to a GPU"
    for source, kernel in TRITON_KERNELS.items():
        assert kernel.serves and kernel.torch and kernel.tests, source
        name = Path(source).stem
        here = [TESTS / "ops" / f"test_{name}.py", TESTS / "ops" / f"{name}_cases.py"]
        assert all(path.is_file() for path in (*here, *(TESTS / test for test in kernel.tests))), source
        assert "compile_kernels(" in here[0].read_text()


def test_the_switch_is_that_of_the_kernels() -> None:
    hopper = pytest.importorskip("codeshell.ops.hopper", reason="torch is not installed")
    switched = {kernel.source for x in OPERATIONS if x.switch for kernel in x.kernels}
    assert switched == set(hopper.SOURCES)
    assert {x.switch for x in OPERATIONS if x.switch} == {hopper.SWITCH}


def test_every_test_of_a_kernel_is_named() -> None:
    in_kernels = {test for x in OPERATIONS for k in (*x.kernels, *x.triton) for test in k.tests}
    named = in_kernels | {test for x in OPERATIONS for test in x.host_tests}
    for pattern in ("test_*_cuda.py", "test_*_host.py"):
        assert {f"gpu/{path.name}" for path in (TESTS / "gpu").glob(pattern)} <= named


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_what_is_named_exists(operation: Operation) -> None:
    assert operation.cpu
    # Where it has kernels, something serves the GPUs that do not run them.
    assert operation.elsewhere or not operation.kernels
    assert not operation.switch or operation.kernels
    assert all((CSRC / source).is_file() for source in operation.cpu_sources)
    if operation.benchmark:
        assert operation.measures
        assert "def main(" in (ROOT / "benchmarks" / f"{operation.benchmark}.py").read_text()
    if any(place.startswith(("codeshell.ops", "codeshell.optim", "torch")) for place in operation.functions):
        pytest.importorskip("torch", reason="torch is not installed")
    for place in filter(None, (*operation.functions, operation.reference)):
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_public_operation_has_an_entry() -> None:
    ops = pytest.importorskip("codeshell.ops", reason="torch is not installed")
    functions = {place.removeprefix("codeshell.ops:") for x in OPERATIONS for place in x.functions}
    # A linear layer is PyTorch's own product: there is nothing of ours to be listed.
    assert set(ops.__all__) - functions == {"linear"}


def test_the_readers_show_the_table() -> None:
    assert [row["name"] for row in collect()["kernels"]] == [x.name for x in OPERATIONS]
    assert {x.benchmark for x in OPERATIONS if x.benchmark} <= set(benchmarks())
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in benchmarks())
