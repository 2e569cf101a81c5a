"""The plan of the GPU check: every kernel, test, case and benchmark has its row, in an order and within 15 minutes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from codeshell.operations import KERNELS, OPERATIONS, TRITON_KERNELS

ROOT = Path(__file__).resolve().parents[2]
ALL = KERNELS | TRITON_KERNELS


def rows(kind: str = "") -> list:
    from gpu.plan import plan

    return [row for row in plan() if not kind or row.kind == kind]


def test_names_are_given_once_and_files_exist() -> None:
    names = [row.name for row in rows()]
    assert len(names) == len(set(names))
    for row in rows():
        assert all((ROOT / file).exists() for file in row.files), row.name
        assert set(row.launches) <= set(ALL)
        assert row.why and row.budget > 0 and row.longest >= row.budget


def test_the_budgets_leave_time_to_start_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_check

    assert gpu_check.main(["--list"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    sum_, total, build = map(int, re.findall(r"\d+", last))
    assert sum_ <= total <= 900 - 2 * 60 and sum_ + build <= 900
    listed = [line.split()[0] for line in lines]
    assert listed[: len(rows())] == [row.name for row in rows()]
    # The sum is that of the lines.
    budgets = [re.search(r"(\d+) s  |(\d+) s$", line) for line in lines]
    assert sum(int(found[1] or found[2]) for found in budgets if found) == sum_


def test_equality_comes_before_the_sanitizer_and_before_speed() -> None:
    kinds = [row.kind for row in rows()]
    assert list(dict.fromkeys(kinds)) == ["first launch", "tests", "sanitizer", "benchmark"]
    assert kinds == sorted(kinds, key=list(dict.fromkeys(kinds)).index)
    assert all(row.ordered == (row.kind in ("first launch", "tests")) for row in rows())


def test_each_kernel_has_a_first_launch_and_its_tests_a_row() -> None:
    assert {source for row in rows("first launch") for source in row.kernels} == set(ALL)
    for source, kernel in ALL.items():
        found = [row.tests for row in rows("tests") if source in row.kernels]
        assert set(kernel.tests) <= set(found), source
    benchmarks = {file for row in rows("benchmark") if not row.extra for file in row.files}
    for operation in OPERATIONS:
        if (operation.kernels or operation.triton) and operation.benchmark:
            assert f"benchmarks/{operation.benchmark}.py" in benchmarks, operation.name


def test_a_hang_in_a_first_launch_costs_20_seconds() -> None:
    for row in rows("first launch"):
        assert row.quiet == 20 and row.environment["CUDA_LAUNCH_BLOCKING"] == "1" and row.debug
        assert len(row.kernels) == 1
    assert all(row.quiet <= 45 for row in rows())


def test_the_first_launches_are_those_of_the_file_in_its_order() -> None:
    written = re.findall(r"^def test_(\w+)\(", (ROOT / "tests/gpu/test_first_launches.py").read_text(), re.M)
    assert [row.command[3].partition("::test_")[2] for row in rows("first launch")] == [f"{x}[gpu]" for x in written]
    order = [row.kernels[0] for row in rows("first launch")]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)


def test_all_files_of_gpu_tests_have_a_row() -> None:
    found = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*_cuda.py")}
    assert {row.tests for row in rows("tests")} == found
    assert {"gpu/test_attention_backward_cuda.py", "integrations/test_models_cuda.py"} <= found


def test_the_budgets_of_tests_name_files_that_exist() -> None:
    from gpu.plan import TESTS, USES

    assert all((ROOT / "tests" / name).is_file() for name in {*TESTS, *USES})


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS if operation.sanitized])
def test_the_cases_of_the_sanitizer_exist(name: str) -> None:
    """A name that no case has would select nothing."""
    from gpu.plan import SANITIZER_PART

    (operation,) = [operation for operation in OPERATIONS if operation.name == name]
    cases = importlib.import_module(f"helpers.{name}_cases").CASES
    assert set(operation.sanitized.split(" or ")) <= {case.name for case in cases}
    dim, dtype = SANITIZER_PART.split(" and ")
    for kernel in operation.kernels:
        text = (ROOT / "tests" / kernel.tests[0]).read_text()
        assert f'ids=["{dim}", ' in text and f'ids=["{dtype}", ' in text
    checkers = {row.name.partition("/")[0]: row for row in rows("sanitizer") if row.name.endswith(f"/{name}")}
    assert {"memcheck", "synccheck"} <= set(checkers)
    for checker, row in checkers.items():
        assert row.program[:3] == ("compute-sanitizer", "--tool", checker)
        assert row.information == (checker == "racecheck")
        assert row.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert not row.kernels  # a hint of the checker is no hang of the kernel


def test_a_dry_row_needs_no_gpu() -> None:
    from gpu.plan import dry

    for row in map(dry, rows()):
        assert row.program == () and "cuda" not in row.command
        assert (row.kind == "benchmark") == ("--smoke" in row.command)
