"""`codeshell lm score`: rows of files and folders, one model or two, Parquet and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import main
from codeshell.ngram import LanguageModel, Settings, train

TEXTS = ["import os\nprint(os.name)\n" * 10, "x=1;y=2\n" * 30, "é = 'ü'\n"]
SMALL = Settings(memory=256 << 20)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    train(TEXTS[:1], folder / "good.lm", SMALL)
    train(TEXTS[1:2], folder / "bad.lm", SMALL, units=LanguageModel.load(folder / "good.lm").handle.units)
    return str(folder / "good.lm"), str(folder / "bad.lm")


def test_rows_of_a_file(models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = models
    pq.write_table(pa.table({"key": ["a", "b", "c"], "body": TEXTS}), tmp_path / "in.parquet")
    output = tmp_path / "scores.parquet"
    arguments = ["lm", "score", str(tmp_path / "in.parquet"), "-m", good, "--text-column", "body", "--id-column", "key"]
    assert main([*arguments, "--against", bad, "-o", str(output)]) == 0
    rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    scores, others = (LanguageModel.load(name).score(TEXTS) for name in models)
    for i, row in enumerate(rows):
        assert row["bytes"] == len(TEXTS[i].encode()) and row["tokens"] == scores.tokens[i]
        assert row["log10"] == scores.log10[i] and row["perplexity"] == scores.perplexity[i]
        assert row["bits_per_byte"] == scores.bits_per_byte[i] and row["bad_bits_per_byte"] == others.bits_per_byte[i]
        assert row["contrast"] == others.bits_per_byte[i] - scores.bits_per_byte[i]
    assert "3 documents" in capsys.readouterr().err
    # The same as lines of JSON, without the second model.
    assert main([*arguments, "-o", "-", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{name: row[name] for name in row if "bad" not in name and name != "contrast"} for row in rows]


def test_a_folder(models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(TEXTS[0])
    (tmp_path / "src" / "b.py").write_bytes(b"\xff\xfe")
    assert main(["lm", "score", str(tmp_path / "src"), "-m", models[0]]) == 0
    out, err = capsys.readouterr()
    (row,) = map(json.loads, out.splitlines())
    assert row["id"].endswith("a.py") and row["bytes"] == len(TEXTS[0])
    assert "left out: 1 " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "no.lm"], "no.lm: No such file"),
        (["-o", ""], "-o ''"),
        (["-o", "."], "-o '.'"),
        (["--threads", "-1"], "--threads"),
        (["--max-file-bytes", "0"], "--max-file-bytes 0"),
        (["--text-column", "no"], "no"),
    ],
)
def test_bad_arguments(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "x"}\n')
    assert main(["lm", "score", str(tmp_path / "in.jsonl"), "-m", models[0], *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_models_of_different_units(models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(TEXTS, tmp_path / "bytes.lm", Settings(units="bytes", memory=256 << 20))
    assert main(["lm", "score", str(tmp_path), "-m", models[0], "--against", str(tmp_path / "bytes.lm")]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_models_of_different_vocabularies_are_told(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text(TEXTS[0])
    train(TEXTS[1:2] * 3, tmp_path / "other.lm", SMALL)
    assert main(["lm", "score", str(tmp_path / "a.py"), "-m", models[0], "--against", str(tmp_path / "other.lm")]) == 0
    assert "which blurs the contrast; train it with --vocabulary" in capsys.readouterr().err
    assert main(["lm", "score", str(tmp_path / "a.py"), "-m", models[0], "--against", models[1]]) == 0
    assert "blurs" not in capsys.readouterr().err
