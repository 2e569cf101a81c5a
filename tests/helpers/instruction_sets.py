"""Checks of an operation at an instruction set below this processor's, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell import _C

TESTS = Path(__file__).resolve().parents[1]


def check_at_level(level: str, module: str, function: str) -> None:
    """Call a function of a test module below tests/ops at `level`, "scalar" or "avx2"; skip where it is not below
    this process's own, which the module's other tests have been through."""
    if _C.simd_level() not in {"scalar": ("avx512", "avx2", "neon"), "avx2": ("avx512",)}[level]:
        pytest.skip(f"this processor's level is {_C.simd_level()}, not above {level}")
    # A level is chosen once for a process.
    code = f"import {module}; {module}.{function}(); from codeshell import _C; print(_C.simd_level())"
    paths = [str(TESTS.parent), str(TESTS), str(TESTS / "ops")]
    environment = {**os.environ, "CODESHELL_SIMD": level, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == level
