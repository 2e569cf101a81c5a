"""A finished synthetic run, with hostile text wherever foreign text can go, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.synthetic_run import build

from codeshell.report.run_page import write


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = build(tmp_path_factory.mktemp("report") / "demo")
    write(directory, directory / "report.html")
    return directory


@pytest.fixture(scope="session")
def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")
