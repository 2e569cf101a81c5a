"""Shards: written whole, the same bytes for the same table, read by row groups."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.documents import shards
from codeshell.errors import UserError


def documents(count: int) -> pa.Table:
    texts = [f"text number {i}\n" * (i % 5 + 1) for i in range(count)]
    return pa.table(
        {
            "id": [shards.document_id(text.encode()) for text in texts],
            "repo": [f"r{i % 3}" for i in range(count)],
            "path": [f"p{i}.py" for i in range(count)],
            "language": ["python"] * count,
            "text": texts,
            "bytes": [len(text) for text in texts],
        },
        schema=shards.DOCUMENTS,
    )


def test_the_id_is_the_md5_of_the_text() -> None:
    assert shards.document_id("é\n".encode()) == hashlib.md5("é\n".encode()).hexdigest()


@pytest.mark.parametrize("count", [0, 1, shards.ROW_GROUP, shards.ROW_GROUP + 1])
def test_a_table_comes_back_and_gives_the_same_bytes_again(tmp_path: Path, count: int) -> None:
    table = documents(count)
    for name in ("a", "b"):
        shards.write_table(tmp_path / name, table)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert shards.read_table(tmp_path / "a").equals(table)
    assert pq.ParquetFile(tmp_path / "a").num_row_groups == max(1, -(-count // shards.ROW_GROUP))


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), shards.TableWriter(tmp_path / "a.parquet", shards.DOCUMENTS) as writer:
        writer.write(documents(3))
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_that_is_not_there_is_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="a part of this path is a file; choose another output directory"):
        shards.write_table(tmp_path / "file/a.parquet", documents(1))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 1000])
def test_a_damaged_shard_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file"):
        shards.read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("wanted", [[], [0], [2, 3, 9], list(range(10)), [4, 5], [9]])
def test_read_kept_joins_rows_with_texts_over_uneven_row_groups(tmp_path: Path, wanted: list[int]) -> None:
    table = documents(10)
    with shards.TableWriter(shards.shard_path(tmp_path, "documents", 7), shards.DOCUMENTS) as writer:
        for start, end in ((0, 4), (4, 5), (5, 10)):
            writer.write(table.slice(start, end - start))
    rows = table.take(pa.array(wanted, pa.int64()))
    kept = pa.table(
        [
            np.full(len(wanted), 7, dtype=np.int32),
            np.array(wanted, dtype=np.int32),
            *(rows[name] for name in shards.KEPT.names[2:]),
        ],
        schema=shards.KEPT,
    )
    shards.write_table(tmp_path / "kept-00007.parquet", kept)
    found = list(shards.read_kept(tmp_path, tmp_path / "kept-00007.parquet"))
    paths = [path for piece in found for path in piece["path"].to_pylist()]
    assert paths == [f"p{i}.py" for i in wanted]
    assert all(piece.schema.equals(shards.DOCUMENTS) for piece in found)


def test_list_shards_in_order_and_whole_ones_only(tmp_path: Path) -> None:
    for index in (1, 0):
        shards.write_table(shards.shard_path(tmp_path, "train", index), documents(3 + index))
    (tmp_path / "train-00002.parquet.partial").write_bytes(b"")
    paths = shards.list_shards(tmp_path, "train")
    assert [path.name for path in paths] == ["train-00000.parquet", "train-00001.parquet"]
