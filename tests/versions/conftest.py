"""Tests that tools/versions.py runs with other versions of the libraries; the suite runs them with its own."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def the_versions_in_question():
    """With tools/versions.py, what is in its folder is what is imported."""
    folder = os.environ.get("CODESHELL_VERSIONS")
    # Headers of CUDA are no module: tests/versions/test_cuda.py finds out by itself which ones it compiles with.
    if folder is not None and not (Path(folder) / "nvidia").is_dir():
        names = {path.name for path in Path(folder).iterdir()} & {"transformers", "numpy", "pandas", "pyarrow"}
        assert names, f"{folder} holds none of the libraries"
        for name in names:
            found = importlib.import_module(name).__file__
            assert Path(found).is_relative_to(folder), f"{name} comes from {found}, not from {folder}"
