"""`codeshell dedup` as a user calls it."""

from __future__ import annotations

import argparse
import gzip
import json
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import dedup, main
from codeshell.dedup.parameters import Parameters

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
    pq.write_table(pa.table({"content": [NEAR, "一二三四五六七", None], "n": [1, 2, 3]}), tmp_path / "rows.parquet")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(json.dumps({"content": "一二三四五六七"}) + "\n" + json.dumps({"content": "alone"}) + "\n{broken\n")
    return tmp_path


def names(inputs: Path) -> list[str]:
    return [str(inputs / name) for name in ("in", "rows.parquet", "rows.jsonl.gz")]


def test_folders_parquet_and_jsonl(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = inputs / "out"
    assert main(["dedup", *names(inputs), "--text-column", "content", "-o", str(output)]) == 0
    found = pq.read_table(output / "duplicates.parquet").to_pylist()
    folder, rows, lines = names(inputs)
    assert [(row["id"], row["kept_id"]) for row in found] == [
        (f"{rows}#0", f"{folder}/a.py"),
        (f"{lines}@0", f"{rows}#1"),
    ]
    assert [row["jaccard"] for row in found] == [96 / 98, 1.0]
    columns = ("shard", "row", "kept_shard", "kept_row")
    assert [tuple(row[name] for name in columns) for row in found] == [(1, 0, 0, 0), (2, 0, 1, 1)]
    assert [row["cluster_size"] for row in found] == [2, 2]
    # What stays: files, rows and lines as they were; a picture, a row without text and a broken line are not lost.
    assert sorted(path.name for path in (output / "kept" / "in").iterdir()) == ["a.py", "b.py", "c.py", "d.bin"]
    assert pq.read_table(output / "kept" / "rows.parquet").to_pylist() == [
        {"content": "一二三四五六七", "n": 2},
        {"content": None, "n": 3},
    ]
    with gzip.open(output / "kept" / "rows.jsonl.gz", "rt") as file:
        assert file.read() == json.dumps({"content": "alone"}) + "\n{broken\n"
    stats = json.loads((output / "stats.json").read_text())
    assert (stats["documents"], stats["kept"], stats["duplicates"], stats["clusters"]) == (6, 4, 2, 2)
    assert stats["left_out"] == {"bad_json": 1, "binary": 1, "encoding_latin1": 1, "no_text": 1}
    assert not (output / "work").exists()
    out = capsys.readouterr().out
    assert "2 are near duplicates of 2 of them" in out
    # Every loss has its line with the remedy; where the list is, is said.
    assert "not compared: 1 bad_json, 1 binary, 1 encoding_latin1, 1 no_text" in out
    assert "warning: rows without a text in the column 'content': 1;" in out and "--text-column" in out
    assert "warning: lines that are no JSON objects: 1;" in out
    assert "warning: documents in other encodings than UTF-8: 1; --encoding auto reads them" in out
    assert "left_out.parquet" in out
    assert "also holds the other files and links, as they were: 1" in out
    listed = pq.read_table(output / "left_out.parquet").to_pylist()
    assert listed == [{"shard": 0, "path": "d.bin", "reason": "binary"}]


def test_what_was_not_compared_is_said_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    for name in ("a.py", "node_modules/m.js", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TEXT)
    for number in range(5):
        (folder / f"large{number}.py").write_text("x" * 3000)
    (folder / "out").symlink_to("/etc")
    assert main(["dedup", str(folder), "-o", str(tmp_path / "o"), "--max-file-bytes", "2000"]) == 0
    out = capsys.readouterr().out
    assert "files of more than 2,000 bytes: 5; raise --max-file-bytes" in out
    assert "5 of 6 documents were not compared" in out
    assert "folders of other people's code, not entered: 1; --vendored" in out
    assert (
        "lacks folders that were not entered (1 vcs, 1 vendored)" in out
        and "links that lead out of their folder (1)" in out
    )
    # Nothing to say is not said.
    assert main(["dedup", str(folder / "a.py"), "-o", str(tmp_path / "p")]) == 0
    out = capsys.readouterr().out
    assert "warning" not in out and "not compared" not in out and "lacks" not in out


def test_ids_only_and_dry_run(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["dedup", *names(inputs), "--text-column", "content"]
    assert main([*command, "--ids-only", "-o", str(inputs / "ids")]) == 0
    kept = pq.read_table(inputs / "ids" / "kept.parquet")["id"].to_pylist()
    assert [Path(name).name.split("@")[0] for name in kept] == ["a.py", "b.py", "rows.parquet#1", "rows.jsonl.gz"]
    assert not (inputs / "ids" / "kept").exists()
    before = sorted(path.name for path in inputs.iterdir())
    assert main([*command, "--dry-run"]) == 0
    assert "2 are near duplicates" in capsys.readouterr().out
    assert sorted(path.name for path in inputs.iterdir()) == before
    assert main([*command, "--dry-run", "-o", str(inputs / "dry")]) == 0
    assert not (inputs / "dry" / "kept").exists()
    assert pq.read_table(inputs / "dry" / "duplicates.parquet").num_rows == 2


def test_keep_order_by_a_column(tmp_path: Path) -> None:
    table = pa.table({"text": [TEXT, NEAR, "other"], "stars": [1, 5, 2], "name": ["x", "y", "y"]})
    pq.write_table(table, tmp_path / "a.parquet")
    command = ["dedup", str(tmp_path / "a.parquet"), "--id-column", "name"]
    assert main([*command, "--keep-order", "column:stars:desc", "-o", str(tmp_path / "out")]) == 0
    (row,) = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert (row["id"], row["kept_id"]) == ("x", "y")
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["repeated_ids"] == 1


def test_bad_input_is_one_line_and_exit_code_2(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(inputs / "out")
    folder = str(inputs / "in")
    cases = [
        ([str(inputs / "missing")], "no such file or folder"),
        ([str(inputs / "rows.parquet")], "no column 'text'; it has content"),
        ([str(inputs / "*.nothing")], "nothing"),
        ([folder, "--threshold", "1.5"], "threshold: 1.5 is not in"),
        ([folder, "--threshold", "nan"], "threshold: nan is not in"),
        ([folder, "--bands", "0"], "bands: 0 is"),
        ([folder, "--bands", "70000"], "more than 65536 lanes"),
        ([folder, "--shingles", "words"], "shingles: 'words' is none of code"),
        ([folder, "--keep-order", "best"], "keep-order: 'best' is none of"),
        ([folder, "--memory", "lots"], "'lots' is not a size"),
        ([folder, "--memory", "1MB"], "too little"),
        ([folder, "--memory", "9" * 400], "more than any machine has"),
        ([folder, "--ngram", "99999999999"], "ngram: 99999999999 is not below"),
        ([folder, "--max-file-bytes", "9" * 30], "--max-file-bytes"),
        ([folder, "--workers", "-1"], "--workers"),
        ([str(inputs / "in" / "d.bin")], "no document"),
        ([folder, "--max-file-bytes", "0"], "--max-file-bytes"),
        ([folder, "--index", ""], "--index DIR: empty"),
        ([folder, "--index", "index\udcff"], "--index 'index\\udcff': not UTF-8"),
    ]
    for arguments, message in cases:
        assert main(["dedup", "--workers", "1", *arguments, "-o", output]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, (arguments, error)
        assert error.count("\n") == 1, error
    for arguments in ([folder, "--threshold", "much"], [folder, "--no-such-flag"], []):
        with pytest.raises(SystemExit) as caught:
            main(["dedup", *arguments, "-o", output])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.count("\n") == 1, error
        assert error.startswith("codeshell") and "--help" in error
    assert main(["dedup", folder, "-o", folder]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["dedup", folder, "-o", ""]) == 2
    assert "-o DIR: empty; name a directory" in capsys.readouterr().err
    assert main(["dedup", folder, "-o", "out\udcff"]) == 2
    assert "-o 'out\\udcff': not UTF-8" in capsys.readouterr().err
    assert main(["dedup", folder]) == 2
    assert "-o DIR: missing" in capsys.readouterr().err


def test_the_help_states_the_defaults_of_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    """The command has no defaults of its own: those of `Parameters` are stated in words."""
    parser = argparse.ArgumentParser()
    dedup.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    for field in fields(Parameters):
        flag = f"--{field.name.replace('_', '-')}"
        assert parser.get_default(field.name) is None, flag
        stated = re.search(rf" {flag} (?!\[).*?\(default: ([^);]*)", text.split("options:")[1])
        assert stated, flag
        assert stated[1] == str(getattr(Parameters(), field.name)), flag
