"""The benchmark of the demo's training, on a tiny run: every arm has its row, scored on the same lines."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.tiny_run import byte_tokenizer, texts, write_run


def test_arms_on_a_tiny_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "demo.json"
    write_run(run, byte_tokenizer(), texts(200), texts(24, "v"))
    (run / "curated").mkdir()
    for split, documents in {"train": texts(200), "valid": texts(24, "v"), "test": texts(6, "t")}.items():
        table = {
            "id": [f"{split}{number:030d}" for number in range(len(documents))],
            "path": [f"{number}.py" for number in range(len(documents))],
            "language": ["python"] * len(documents),
            "text": documents,
            "bytes": [len(text) for text in documents],
        }
        pq.write_table(pa.table(table), run / "curated" / f"{split}-00000.parquet")
    settings = ["--share", "0.001", "--rounds", "1", "--lines", "8", "--arms", "before", "--json", str(out)]
    tried = ["--try", "small:train.batch_tokens=1024;model.n_layer=1;model.n_embd=32;train.optimizer=muon"]
    demo = importlib.import_module("demo")
    # A model of one narrow layer, for the time of the suite.
    monkeypatch.setattr(demo, "BEFORE", [*demo.BEFORE, "model.n_layer=1", "model.n_embd=32"])
    monkeypatch.setattr(demo, "STEPS_OF_A_ROUND", 1)
    monkeypatch.setattr("sys.argv", ["demo.py", str(run), *settings, *tried])
    demo.main()
    result = json.loads(out.read_text())
    before, small = result["rows"]
    assert (before["name"], small["name"]) == ("before", "small")
    assert before["tokens"] == 4096 * before["steps"] and small["tokens"] == 1024 * small["steps"]
    for row in (before, small):
        assert row["lines"]["n"] == row["against_common_line"]["n"] == result["common_line"]["n"] == 8
        # Two steps teach nothing: near a uniform guess, which is 8.1 bits for a byte and more for merged tokens.
        assert 2.0 < row["bits_per_byte"] < 12.0
    assert "most common line" in capsys.readouterr().out
