"""`documents.corpus.Corpus`: the kept documents of a stage, by shard and language, in a form that workers take."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from helpers.corpus_builder import build

from codeshell.documents.corpus import Corpus
from codeshell.documents.shards import KEPT, list_shards, read_table, write_table
from codeshell.errors import UserError

TEXTS = [("a", "x.py", "x = 1\n"), ("a", "ü.py", "é = 'ü'\n"), ("b", "z.py", "z = 3\n"), ("c", "y.py", "y = 10\n")]


def test_reads_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    run = build(tmp_path / "run", TEXTS, shards=2, stage="neardup")
    # The first document of the second shard is dropped.
    last = list_shards(run / "neardup", "kept")[1]
    write_table(last, read_table(last).slice(1))
    corpus = pickle.loads(pickle.dumps(Corpus.of_stage(run / "collect", run / "neardup")))
    assert list(corpus.shards) == [0, 1]
    read = [[row["text"] for table in corpus.read(shard) for row in table.to_pylist()] for shard in corpus.shards]
    assert read == [["x = 1\n", "é = 'ü'\n"], ["y = 10\n"]]
    assert corpus.rows(1).schema.equals(KEPT)
    assert corpus.rows(1, ["path"])["path"].to_pylist() == ["y.py"]
    # Bytes, not characters: the two letters with marks have two bytes each.
    assert corpus.languages == {"Python": 6 + 10 + 7}


def test_a_stage_that_has_not_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neardup: no kept-\*\.parquet here; run the neardup stage first"):
        Corpus.of_stage(tmp_path / "collect", tmp_path / "neardup")


def test_an_empty_corpus_has_no_language(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [], stage="neardup")
    corpus = Corpus.of_stage(run / "collect", run / "neardup")
    assert [list(corpus.read(shard)) for shard in corpus.shards] == [[]] and corpus.languages == {}
