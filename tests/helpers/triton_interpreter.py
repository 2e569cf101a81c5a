"""Triton's interpreter: cases that run kernels on tensors of the CPU, in a process of their own.

TRITON_INTERPRET must be set before triton is imported, and then no kernel of the process can be compiled. So a test
file has its cases in a file beside it, NAME_cases.py, whose functions `case_*()` take nothing and assert. The test file
runs each of them by name:

    CASES = Path(__file__).with_name("gelu_triton_cases.py")

    @pytest.mark.parametrize("name", names(CASES))
    def test_in_the_interpreter(name: str) -> None:
        run(CASES, name)

All cases of a file run in one process, at the first of them: importing torch and triton takes longer than they do. In
that process a GPU of compute capability 9.0 is simulated, so that public operations reach their kernels, too.

The interpreter is numpy, one program after the other, about 1 ms each. It proves arithmetic, masks and indices, in
fp32 alone: it truncates where it should round to bf16. Layouts, races and registers it does not see; triton_cubins.py
sees the last. Keep tensors at 64 rows or fewer.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def need_triton() -> None:
    """Skip the test, and say what is not checked, where triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (pip install 'codeshell[dev]'): kernels in Triton are NOT checked")


def names(path: Path) -> list[str]:
    """The cases of a file, in order, without importing it."""
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return [node.name for node in functions if node.name.startswith("case_")]


def run(path: Path, name: str) -> None:
    """Fail with the traceback of a case, if it failed."""
    need_triton()
    failure = _outcomes(path)[name]
    if failure is not None:
        pytest.fail(f"in Triton's interpreter, {failure}", pytrace=False)


@functools.cache
def _outcomes(path: Path) -> dict[str, str | None]:
    """The traceback of each case of a file, None where it passed."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    found: dict[str, str | None] = run_script(__file__, [str(path)], environment)
    return found


def run_script(file: str, arguments: Sequence[str], environment: Mapping[str, str], given: str = "") -> Any:
    """Run a helper file as a script, in a process of its own; what it prints as its last line, as JSON.

    Args:
        environment: its variables; PYTHONPATH is set here.
        given: its standard input.
    """
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", file, *arguments],
        input=given,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": paths},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{Path(file).name}: {done.stdout[-500:]}{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def main(path: Path) -> None:
    """Run all cases of a file, and print their outcomes as the last line."""
    from helpers.simulated_gpu import simulate

    spec = importlib.util.spec_from_file_location("cases", path)
    assert spec is not None and spec.loader is not None
    cases = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = cases
    spec.loader.exec_module(cases)
    outcomes: dict[str, str | None] = {}
    for name in names(path):
        with pytest.MonkeyPatch.context() as patch:
            simulate(patch, None, (9, 0), triton="kernels")
            try:
                getattr(cases, name)()
                outcomes[name] = None
            except Exception:
                outcomes[name] = traceback.format_exc(limit=-6)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
