"""Every benchmark of an operation, on tiny data: each contender computes the same, and no row has an error."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from codeshell.operations import OPERATIONS


@pytest.mark.parametrize("name", [x.benchmark for x in OPERATIONS if (x.kernels or x.triton) and x.benchmark])
def test_smoke(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "r.json"
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--smoke", "--device", "cpu", "--json", str(out)])
    assert importlib.import_module(name).main() == 0
    result = json.loads(out.read_text())
    assert result["finished"] and result["smoke"] and result["benchmark"] == name
    rows = result["rows"]
    assert {row["error"] for row in rows} == {None}
    assert {row["ours"] for row in rows} == {True, False}
    assert all(row["ratio_to_floor"] > 0 for row in rows)
    for row in rows:
        assert (row["floor"] == "gemm") == (row["teraflops"] is not None)
    assert ("gemm" in {row["floor"] for row in rows}) == (name in ("attention", "loss"))
