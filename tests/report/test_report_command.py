"""`codeshell report`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from codeshell.cli import report
from codeshell.errors import UserError


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args(words))


def test_writes_where_it_is_told(run: Path, page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "page.html"
    assert call(str(run), "-o", str(output)) == 0
    assert output.read_text(encoding="utf-8") == page
    assert capsys.readouterr().out == f"{output}\n"


def test_bad_arguments(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        call(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no run is here"):
        call(str(tmp_path))
    with pytest.raises(UserError, match="is a directory"):
        call(str(run), "-o", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"part of this path is a file|in the way"):
        call(str(run), "-o", str(tmp_path / "file" / "page.html"))
