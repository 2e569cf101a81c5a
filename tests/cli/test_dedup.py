"""`codeshell dedup` as a user calls it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import main

TEXT = " ".join(f"word{i}" for i in range(100))
NEAR = TEXT + " and more"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.py").write_text(TEXT)
    (folder / "b.py").write_text("nothing like it")
    (folder / "c.py").write_bytes(b"caf\xe9 is not UTF-8")
    (folder / "d.bin").write_bytes(b"\0\1")
    pq.write_table(pa.table({"content": [NEAR, "一二三四五六七", None]}), tmp_path / "rows.parquet")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(json.dumps({"content": "一二三四五六七"}) + "\n" + json.dumps({"content": "alone"}) + "\n{broken\n")
    return tmp_path


def test_folders_parquet_and_jsonl(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(inputs / name) for name in ("in", "rows.parquet", "rows.jsonl.gz")]
    output = inputs / "out"
    assert main(["dedup", *names, "--text-column", "content", "-o", str(output)]) == 0
    found = pq.read_table(output / "duplicates.parquet").to_pylist()
    assert [(row["id"], row["kept_id"]) for row in found] == [
        (f"{names[1]}#0", f"{names[0]}/a.py"),
        (f"{names[2]}@0", f"{names[1]}#1"),
    ]
    assert [row["jaccard"] for row in found] == [96 / 98, 1.0]
    kept = pq.read_table(output / "kept.parquet")["id"].to_pylist()
    assert [Path(name).name.split("@")[0] for name in kept] == ["a.py", "b.py", "rows.parquet#1", "rows.jsonl.gz"]
    stats = json.loads((output / "stats.json").read_text())
    assert (stats["documents"], stats["kept"], stats["duplicates"], stats["clusters"]) == (6, 4, 2, 2)
    assert sum(stats["left_out"].values()) == 4
    assert stats["left_out"]["bad_utf8"] == 1
    assert "2 near duplicates of 2 kept ones" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(inputs / "out")
    cases = [
        ([str(inputs / "missing")], "no such file or folder"),
        ([str(inputs / "rows.parquet")], "no column 'text'; it has content"),
        ([str(inputs / "in"), "--threshold", "1.5"], "threshold: 1.5 is not in"),
        ([str(inputs / "in"), "--bands", "0"], "bands: 0 is below 1"),
        ([str(inputs / "in" / "d.bin")], "no document"),
        ([str(inputs / "in"), "--max-file-bytes", "0"], "--max-file-bytes"),
    ]
    for arguments, message in cases:
        assert main(["dedup", *arguments, "-o", output]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["dedup", str(inputs / "in"), "-o", str(inputs / "in")]) == 2
    assert "not empty" in capsys.readouterr().err
