"""Fixtures of the evaluation's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.evaluation_run import make_run


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")
