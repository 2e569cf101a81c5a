"""pyarrow starts without pandas in commands and workers, and pandas still works there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.engine import LocalEngine

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")


def python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def has_pandas(number: int) -> bool:
    pa.array([number])
    return "pandas" in sys.modules


def test_pandas_is_left_out_and_works_when_it_is_wanted() -> None:
    begin = "import sys, pyarrow as pa; from codeshell.engine.arrow import leave_out_pandas; leave_out_pandas()\n"
    seen = python(begin + "pa.array([1]); pa.scalar('x'); print('pandas' in sys.modules)")
    assert seen == "False\n"
    assert python(begin + "print(pa.table({'a': [1, 2]}).to_pandas()['a'].sum())") == "3\n"
    assert python("import pandas, pyarrow as pa; " + begin + "print(pa.array(pandas.Series([1])).type)") == "int64\n"


def test_workers_start_without_pandas() -> None:
    with LocalEngine(2, "codeshell.dedup.job") as engine:
        assert list(engine.map(has_pandas, range(4))) == [False] * 4


def test_dedup_runs_without_pandas(tmp_path: Path) -> None:
    rows = [f"def f{i}():\n    return {i}\n" for i in range(40)]
    pq.write_table(pa.table({"text": rows + rows[:10]}), tmp_path / "in.parquet")
    code = (
        "import sys; from codeshell.cli import main; assert main(sys.argv[1:]) == 0; assert 'pandas' not in sys.modules"
    )
    output = python(code, "dedup", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out"), "--workers", "1")
    assert "10 are near duplicates" in output
