"""`codeshell quality train` and `score`: from labels to a model, and from files to scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.quality_labels import label, labels

from codeshell.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels and a model of them."""
    folder = tmp_path_factory.mktemp("trained")
    pq.write_table(pa.Table.from_pylist(labels(120)), folder / "labels.parquet")
    for side, kept in (("good", lambda r: r["score"] >= 3), ("bad", lambda r: r["score"] < 3)):
        (folder / side).mkdir()
        for number in range(1000, 1060):
            record = label(number)
            if kept(record):
                (folder / side / f"f{number}.py").write_text(record["text"] * 2)
    arguments = ["quality", "train", str(folder / "labels.parquet"), "-o", str(folder / "my.model")]
    arguments += ["--good", str(folder / "good"), "--bad", str(folder / "bad"), "--scorers", "lexical"]
    arguments += ["--folds", "3", "--repeats", "2", "--trees", "20", "--leaves", "6", "--bags", "1", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codeshell.quality.metrics.DRAWS", 20)
        assert main([*arguments, "--name", "Toy model", "--about", "Files that a test made."]) == 0
    return folder


def test_the_files_beside_the_model(trained: Path) -> None:
    card = (trained / "my.model.md").read_text()
    figures = json.loads((trained / "my.model.json").read_text())
    assert card.startswith("# Toy model\n")
    assert max(map(len, card.splitlines())) <= 200
    for words in ("Files that a test made.", "length only", "n-grams alone", "## Limits", "`good_from_bad`"):
        assert words in card
    model = figures["models"]["model"]
    assert model["spearman"]["low"] < model["spearman"]["mean"] < model["spearman"]["high"]
    assert model["spearman"]["mean"] > figures["models"]["length only"]["spearman"]["mean"]
    assert sum(part["documents"] for part in figures["calibration"]) == 120
    assert sum(figures["importance"].values()) == pytest.approx(1)
    assert set(figures["dimensions"]) == {"readability"}


def score(trained: Path, output: Path, *arguments: str) -> pa.Table:
    command = ["quality", "score", *arguments, "--model", str(trained / "my.model"), "-o", str(output)]
    assert main(command) == 0
    return pq.read_table(output)


def test_rows_are_scored_in_their_order(trained: Path, tmp_path: Path, capsys: Any) -> None:
    records: list[Any] = [
        {"key": record["id"], "content": record["text"], "language": "Python"} for record in labels(30)
    ]
    records[3]["content"] = None
    records[4]["content"] = ""
    lines = [json.dumps(record) for record in records]
    lines[5] = "{broken"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    options = ["--text-column", "content", "--id-column", "key", "--workers", "1"]
    found = score(trained, tmp_path / "s.parquet", str(tmp_path / "rows.jsonl"), *options)
    ids = found["id"].to_pylist()
    assert ids[:5] == ["d0", "d1", "d2", "d3", "d4"]
    assert ids[6:] == [f"d{i}" for i in range(6, 30)]
    missing = [i for i, value in enumerate(found["quality"].to_pylist()) if value is None]
    assert missing == [3, 4, 5]
    assert found["prints"].null_count == found["language"].null_count == 3
    assert "no score (null): " in (told := capsys.readouterr().out)
    assert "1 bad_json" in told and "1 empty" in told and "1 no_text" in told
    # The score follows the habits that the texts were made with.
    pairs = [(r["score"], q) for r, q in zip(labels(30), found["quality"].to_pylist(), strict=True) if q is not None]
    low, high = ([q for s, q in pairs if s <= 1], [q for s, q in pairs if s >= 4])
    assert sum(low) / len(low) + 1 < sum(high) / len(high)
    assert all(0 <= q <= 5 for _, q in pairs)
    assert {"quality", "readability", "characters", "prints"} <= set(found.column_names)


def test_any_number_of_workers_writes_the_same_bytes(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(40):
        (folder / f"f{number}.py").write_text(label(number)["text"])
    (folder / "latin.py").write_bytes("# Größe\n".encode("latin-1"))
    table = pa.table({"text": [label(i)["text"] for i in range(50)], "path": [f"p{i}.py" for i in range(50)]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    monkeypatch.chdir(tmp_path)
    for workers in ("1", "2"):
        score(trained, tmp_path / f"s{workers}.parquet", "src", "rows.parquet", "--workers", workers)
    assert (tmp_path / "s1.parquet").read_bytes() == (tmp_path / "s2.parquet").read_bytes()
    found = pq.read_table(tmp_path / "s1.parquet")
    assert found.num_rows == 91
    assert found["quality"].null_count == 1
    assert "src/latin.py" in found.filter(found["quality"].is_null())["id"].to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.parquet", "s1.parquet", "s2.parquet", "src"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "40"], "12 repositories; give fewer folds"),
        (["--group-column", "project"], "no column 'project'"),
        (["--good", "x"], "only one is given"),
        (["--trees", "0"], "--trees 0: give 1 to"),
        (["--scorers", "standards"], "scorer standards: needs the column"),
        (["--scorers", "lexcal"], "did you mean lexical"),
        (["--language-models", "x", "--scorers", "lexical"], "perplexity is not among the scorers"),
    ],
)
def test_bad_arguments_of_train(trained: Path, tmp_path: Path, arguments: list[str], message: str, capsys: Any) -> None:
    command = ["quality", "train", str(trained / "labels.parquet"), "-o", str(tmp_path / "m"), *arguments]
    assert main(command) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
    assert not list(tmp_path.iterdir())


def test_bad_arguments_of_score(trained: Path, tmp_path: Path, capsys: Any) -> None:
    whole = (trained / "my.model").read_bytes()
    (tmp_path / "cut.model").write_bytes(whole[:-9])
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "none").mkdir()
    source = str(tmp_path / "a.py")
    for arguments, message in (
        ([source, "--model", str(tmp_path / "cut.model")], "cut.model: not a readable quality model file"),
        ([source, "--model", str(tmp_path / "no.model")], "no.model: No such file"),
        ([source, "--workers", "-1"], "--workers -1"),
        ([str(tmp_path / "none"), "--model", str(trained / "my.model")], "no document to score"),
    ):
        assert main(["quality", "score", *arguments, "-o", str(tmp_path / "s.parquet")]) == 2
        assert message in capsys.readouterr().err
    assert main(["quality", "score", source, "-o", str(tmp_path / "none")]) == 2
    assert "name a file in a folder that is there" in capsys.readouterr().err
    assert not (tmp_path / "s.parquet").exists()
