"""What `codeshell tokenizer` reads, and its two commands."""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import tokenizer as command
from codeshell.documents.shards import DOCUMENTS, shard_path, write_rows
from codeshell.errors import UserError
from codeshell.tokenizer import Tokenizer, inputs
from codeshell.tokenizer.train import train

CODE = "def merge_sort(values):\n    return sorted(values)\n"


def codeshell_tokenizer(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([str(argument) for argument in arguments]))


def read(*paths: object, split: str = "train") -> tuple[list[tuple[str | None, str]], Counter[str]]:
    left_out: Counter[str] = Counter()
    return [tuple(item) for item in inputs.documents([str(p) for p in paths], split, left_out)], left_out


def make_run(directory: Path) -> Path:
    (directory / "curated").mkdir(parents=True)
    for split, language in (("train", "python"), ("valid", "c")):
        row: dict[str, object] = {
            "id": "0" * 32,
            "repo": "r",
            "path": "a",
            "language": language,
            "text": f"{split} {CODE}",
        }
        write_rows(shard_path(directory / "curated", split, 0), DOCUMENTS, [row | {"bytes": 60}])
    return directory


def test_a_folder_gives_its_source_files_and_counts_the_rest(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text(CODE)
    (tmp_path / "a.c").write_text("int x;\n")
    (tmp_path / "bad.py").write_bytes(b"# \xff\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    documents, left_out = read(tmp_path)
    assert documents == [("c", "int x;\n"), ("python", CODE)]
    assert left_out == {"bad_utf8": 1, "empty": 1, "binary": 1}


def test_a_named_file_is_read_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "zh.corpus").write_text("你好\n", encoding="utf-8")
    (tmp_path / "script").write_text("#!/usr/bin/env python3\n")
    documents, left_out = read(tmp_path / "zh.corpus", tmp_path / "script")
    assert documents == [(None, "你好\n"), ("python", "#!/usr/bin/env python3\n")]
    assert not left_out


def test_rows_of_parquet_and_jsonl(tmp_path: Path) -> None:
    table = {"text": [CODE, "x", None], "language": ["ruby", None, "c"], "path": ["a.py", "b.py", "c.c"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "你好"}) + "\n{broken\n")
    documents, left_out = read(tmp_path / "a.parquet", tmp_path / "a.jsonl.gz")
    assert documents == [("ruby", CODE), ("python", "x"), (None, "你好")]
    assert left_out == {"no_text": 1, "bad_json": 1}


def test_a_run_gives_the_split_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for path in (run, run / "curated"):
        assert read(path)[0] == [("python", f"train {CODE}")]
        assert read(path, split="valid")[0] == [("c", f"valid {CODE}")]


def test_the_sample_takes_each_text_once_within_its_bytes() -> None:
    texts = [f"text {i}" * 3 for i in range(50)]
    documents = [inputs.Document(None, text) for text in texts + texts[:20]]

    def chosen(max_bytes: int, seed: int = 0, order: int = 1) -> set[str]:
        count, items = inputs.sample(lambda: iter(documents[::order]), seed=seed, max_bytes=max_bytes)
        found = [item.text for item in items]
        assert count == len(found) == len(set(found))
        assert sum(map(len, found)) <= max_bytes
        return set(found)

    assert chosen(10**6) == set(texts)
    half = chosen(600)
    assert chosen(300) < half
    assert len(half) > 20
    assert chosen(600, order=-1) == half
    assert chosen(600, seed=1) != half
    assert chosen(3) == set()


def test_batches_hold_everything_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BATCH_BYTES", 10)
    documents = [inputs.Document(None, "x" * size) for size in (3, 4, 5, 20, 1, 1)]
    groups = list(inputs.batches(documents))
    assert [len(group) for group in groups] == [3, 1, 2]
    assert [item for group in groups for item in group] == documents


def test_train_then_stats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for i in range(20):
        (code / f"{i}.py").write_text(f"{CODE}# {i} {'x' * i}\n")
    (code / "copy.py").write_text(f"{CODE}# 0 \n")
    assert codeshell_tokenizer("train", code, "-o", tmp_path / "out", "--base-vocab-size", 290, "--threads", 1) == 0
    printed = capsys.readouterr().out
    assert "290 tokens and 20 special ones" in printed
    assert "from 20 different texts" in printed
    tokenizer = Tokenizer.load(tmp_path / "out")
    texts = sorted({path.read_text() for path in code.iterdir()})
    assert tokenizer.hash == train([texts], 290).hash

    numbers = tmp_path / "stats.json"
    assert codeshell_tokenizer("stats", tmp_path / "out", code, "--json", numbers, "--threads", 1) == 0
    printed = capsys.readouterr().out
    result = json.loads(numbers.read_text())
    every = [path.read_text() for path in code.iterdir()]
    n_tokens = sum(len(tokenizer.encode(text)) for text in every)
    assert result["by_language"]["python"]["tokens"] == result["tokens"] == n_tokens
    assert result["characters_per_token"] == round(len("".join(every)) / n_tokens, 4)
    assert result["tokenizer_hash"] == tokenizer.hash
    assert result["encode_megabytes_per_second"] > 0
    assert "python" in printed and "MB/s on 1 thread" in printed

    run = make_run(tmp_path / "run")
    assert codeshell_tokenizer("stats", tmp_path / "out", "--corpus", run, "--split", "valid") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "c"


def test_train_says_when_the_text_does_not_carry_the_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("ab ab\n")
    assert codeshell_tokenizer("train", tmp_path / "a.py", "-o", tmp_path / "out", "--vocab-size", 9000) == 0
    assert "fewer than the 9,000 asked for" in capsys.readouterr().out


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "empty").mkdir()
    train([[CODE]], 256).save(tmp_path / "there")
    a, out, there, empty = (tmp_path / name for name in ("a.py", "out", "there", "empty"))
    cases: list[tuple[list[object], str]] = [
        (["train", tmp_path / "none", "-o", out, "--vocab-size", 300], "no such file or folder"),
        (["train", empty, "-o", out, "--vocab-size", 300], "no text in it"),
        (["train", a, "-o", out, "--vocab-size", 300, "--sample-bytes", 3], "sample-bytes 3"),
        (["train", a, "-o", out, "--base-vocab-size", 255], "--base-vocab-size 255: .* at least 256"),
        (["train", a, "-o", out, "--vocab-size", 300, "--seed", -1], "--seed -1"),
        (["train", a, "-o", "", "--vocab-size", 300], "-o: an empty name"),
        (["stats", "", a], "tokenizer: an empty name"),
        (["train", a, "-o", out, "--vocab-size", 300, "--threads", -1], "--threads: -1 is not in 0..1024"),
        (
            ["train", a, "-o", out, "--vocab-size", 300, "--threads", 10**11],
            "--threads: 100000000000 is not in 0..1024",
        ),
        (["train", a, "-o", there, "--vocab-size", 300], "already holds a tokenizer"),
        (["train", a, "-o", a / "below", "--vocab-size", 300], "choose another output directory"),
        (["stats", there], "nothing to measure"),
        (["stats", there, empty], "no text in it"),
        (["stats", empty, a], "no such tokenizer"),
        (["stats", a, a], "not valid JSON"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            codeshell_tokenizer(*arguments)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_the_command_imports_nothing_heavy() -> None:
    heavy = "('tokenizers', 'pyarrow', 'numpy', 'torch')"
    script = f"import sys, codeshell.cli.tokenizer; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    script = "import sys, codeshell.tokenizer.train, codeshell.data.tokens; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
