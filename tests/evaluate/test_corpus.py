"""Documents: chosen by hash within a byte limit, whatever shards they lie in."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.evaluation_fakes import document, write_documents

from codeshell.documents.shards import document_id
from codeshell.errors import UserError
from codeshell.evaluate import corpus as corpus_module
from codeshell.evaluate.corpus import Corpus, find_parquet, split_paths

DOCUMENTS = [
    document(f"{'é' if n % 3 else 'e'} file {n}\n" * (n + 1), language="Python" if n % 2 else "C", path=f"{n}.py")
    for n in range(40)
]


def paths(root: Path, cuts: list[int]) -> list[Path]:
    ends = [0, *cuts, len(DOCUMENTS)]
    found = []
    for index, (first, last) in enumerate(itertools.pairwise(ends)):
        found.append(root / f"{len(cuts)}" / f"test-{index:05d}.parquet")
        write_documents(found[-1], DOCUMENTS[first:last])
    return found


def test_the_choice_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    one, many = Corpus(paths(tmp_path, [])), Corpus(paths(tmp_path, [1, 7, 30]))
    chosen = one.choose(3, "x", max_bytes=2000)
    assert chosen == many.choose(3, "x", max_bytes=2000)
    assert 1500 < sum(len(item.data) for item in chosen) <= 2000
    assert chosen != one.choose(4, "x", max_bytes=2000) and chosen != one.choose(3, "y", max_bytes=2000)
    assert {item.id for item in one.choose(3, "x", max_bytes=10**9)} == {item.id for item in DOCUMENTS}
    assert one.total_bytes == sum(len(item.data) for item in DOCUMENTS)
    assert all(document_id(item.data) == item.id for item in chosen)


def test_languages_are_chosen_and_left_out_by_lower_case_name(tmp_path: Path) -> None:
    corpus = Corpus(paths(tmp_path, [9]))
    python = corpus.choose(0, "x", max_bytes=10**9, languages=frozenset(["python"]))
    rest = corpus.choose(0, "x", max_bytes=10**9, excluded=frozenset(["python"]))
    assert len(python) == len(rest) == 20
    assert {item.language for item in python} == {"Python"} and {item.language for item in rest} == {"C"}


def test_a_file_beyond_the_limit_is_passed_over(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.parquet", [document("x" * 500), document("y" * 5), document("")])
    assert [item.text for item in Corpus([tmp_path / "a.parquet"]).choose(0, "x", max_bytes=100)] == ["yyyyy"]


def test_a_text_column_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": ["one", None, "zwölf"]}), path)
    chosen = Corpus([path]).choose(0, "x", max_bytes=100)
    assert sorted(item.text for item in chosen) == ["one", "zwölf"]
    assert {item.id for item in chosen} == {document_id(b"one"), document_id("zwölf".encode())}
    assert {item.language for item in chosen} == {""}


def test_folders_of_code_and_jsonl_are_documents_too(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("x = 1\n")
    (tmp_path / "code/b.png").write_bytes(b"\x89PNG")
    (tmp_path / "rows.jsonl").write_text('{"text": "y = 2", "language": "Python", "id": "one"}\n{"text": null}\n')
    corpus = Corpus(find_parquet([str(tmp_path / "code"), str(tmp_path / "rows.jsonl")]))
    chosen = {(item.text, item.language, item.path) for item in corpus.choose(0, "x", max_bytes=100)}
    assert chosen == {("x = 1\n", "python", "a.py"), ("y = 2", "Python", "")}
    assert {row.id for row in corpus.rows} == {document_id(b"x = 1\n"), "one"}


def test_bad_files_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"other\.parquet: no column 'text'"):
        Corpus([tmp_path / "other.parquet"])
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read whole"):
        Corpus([tmp_path / "broken.parquet"])


def test_a_directory_stands_for_its_test_split(tmp_path: Path) -> None:
    for name in ("train-00000", "test-00000", "test-00001", "deep/x"):
        write_documents(tmp_path / f"{name}.parquet", DOCUMENTS[:1])
    assert [path.name for path in find_parquet([str(tmp_path)])] == ["test-00000.parquet", "test-00001.parquet"]
    assert [path.name for path in find_parquet([str(tmp_path / "deep")])] == ["x.parquet"]
    (tmp_path / "empty").mkdir()
    assert len(Corpus(find_parquet([str(tmp_path / "empty")]))) == 0
    for missing in ("nowhere", ""):
        with pytest.raises(UserError, match=f"{missing}: no such file or folder" if missing else "empty"):
            Corpus(find_parquet([str(tmp_path / missing) if missing else ""]))


def test_a_large_split_is_sampled_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(9):
        write_documents(tmp_path / "curated" / f"test-{index:05d}.parquet", DOCUMENTS[index : index + 1])
    assert len(split_paths(tmp_path, "test", seed=0)) == 9 and split_paths(tmp_path, "train", seed=0) == []
    monkeypatch.setattr(corpus_module, "MAX_SHARDS", 4)
    few = split_paths(tmp_path, "test", seed=0)
    assert len(few) == 4 and few == sorted(few)
    assert few == split_paths(tmp_path, "test", seed=0) != split_paths(tmp_path, "test", seed=1)
