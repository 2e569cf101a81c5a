"""Parquet and JSONL inputs: rows become documents, bad rows are counted, damaged files are refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers.trees import program, recipe, rows, run_collect, write_tree

from codeshell.documents import batches, inputs, readers
from codeshell.documents.inputs import InputOptions
from codeshell.errors import UserError

OPTIONS = InputOptions()

RECORDS: list[dict[str, Any]] = [
    {"text": program(i), "repo": f"owner/repo{i % 3}", "path": f"src/m{i}.py", "language": None} for i in range(40)
]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])  # two members, as pigz
    elif path.suffix == ".zst":
        data = zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :])
    path.write_bytes(data)
    return path


def write_parquet(path: Path, records: list[dict[str, Any]], group: int = 7) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=group)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("shard_bytes", [700, 10**8])
def test_every_row_is_a_document_once_and_in_order(tmp_path: Path, name: str, shard_bytes: int) -> None:
    path = (write_parquet if name == "a.parquet" else write_jsonl)(tmp_path / name, RECORDS)
    run_collect(recipe(path, shard_bytes=shard_bytes), tmp_path / "run")
    documents = rows(tmp_path / "run/collect", "documents")
    assert [(row["repo"], row["path"], row["text"]) for row in documents] == [
        (record["repo"], record["path"], record["text"]) for record in RECORDS
    ]


def test_ranges_of_a_jsonl_file_share_no_line_and_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"a"}\n\n{"text":"bb"}\r\n{"text":"ccc"}')
    whole = [(b"a", "@0", 0), (b"bb", "@14", 2), (b"ccc", "@29", 3)]
    for shard_bytes in range(1, path.stat().st_size + 2):
        plan = inputs.plan([str(path)], OPTIONS, shard_bytes)
        found = [row for shard in plan.shards for row in batches.rows(shard, OPTIONS)]
        assert [(row.text, row.place, row.row) for row in found] == whole, shard_bytes
        assert len(plan.shards) > 1 or shard_bytes > 13


def test_globs_are_expanded_in_order(tmp_path: Path) -> None:
    for name, start in (("b", 10), ("a", 0)):
        write_parquet(tmp_path / f"{name}.parquet", RECORDS[start : start + 10])
    run_collect(recipe(tmp_path / "*.parquet"), tmp_path / "run")
    assert [row["path"] for row in rows(tmp_path / "run/collect", "documents")] == [f"src/m{i}.py" for i in range(20)]


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("one.parquet", "two.jsonl"):
        path = (write_parquet if name == "one.parquet" else write_jsonl)(tmp_path / name, RECORDS[:5])
        system.pipe(f"/bucket/{name}", path.read_bytes())
    statistics = run_collect(recipe("memory://bucket/one.parquet", "memory://bucket/*.jsonl"), tmp_path / "run")
    assert statistics["documents"] == 10
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        run_collect(recipe("memory://bucket/none.jsonl"), tmp_path / "none")
    with pytest.raises(UserError, match="a URL must end in"):
        run_collect(recipe("memory://bucket/folder"), tmp_path / "folder")


def test_other_column_names_and_missing_optional_columns(tmp_path: Path) -> None:
    records = [{"content": program(0), "lang": "C++", "size": 3}, {"content": program(1), "lang": "Go", "size": 4}]
    path = write_parquet(tmp_path / "data.v1.parquet", records)
    run_collect(recipe(path, text_column="content", language_column="lang"), tmp_path / "run")
    documents = rows(tmp_path / "run/collect", "documents")
    assert [(row["language"], row["repo"], row["path"]) for row in documents] == [
        ("cpp", "data", "data.v1.parquet#0"),
        ("go", "data", "data.v1.parquet#1"),
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_any_kind_of_text_column(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array([program(0), None], pa.string()).cast(kind), "path": ["a.py", "b.py"]})
    pq.write_table(table, tmp_path / "a.parquet")
    statistics = run_collect(recipe(tmp_path / "a.parquet"), tmp_path / "run")
    assert (statistics["documents"], statistics["dropped"]) == (1, {"no_text": 1})


def test_bad_rows_are_counted_by_reason_and_placed(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": program(0), "path": "good.py"}),
        "{not json",
        json.dumps(["a", "list"]),
        json.dumps({"path": "no-text.py"}),
        json.dumps({"text": 7, "path": "number.py"}),
        json.dumps({"text": None, "path": "null.py"}),
        json.dumps({"text": "", "path": "empty.py"}),
        json.dumps({"text": "a\0b", "path": "nul.py"}),
        json.dumps({"text": "x" * 2000, "path": "large.py"}),
        json.dumps({"text": "x = 1\n", "path": "a.unknown"}),
        json.dumps({"text": "x = 1\n"}),
        '{"text": "\\ud800", "path": "surrogate.py"}',
        "[" * 100_000,
        json.dumps({"text": program(1), "path": 3, "language": "Python"}),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    statistics = run_collect(recipe(path, max_file_bytes=1000), tmp_path / "run")
    assert statistics["documents"] == 2
    assert statistics["dropped"] == {
        "bad_json": 3,
        "bad_utf8": 1,  # the lone surrogate
        "binary": 1,
        "empty": 1,
        "no_text": 3,
        "over_large": 1,
        "unknown_language": 2,
    }
    places = {row["path"]: row["rule"] for row in rows(tmp_path / "run/collect", "dropped")}
    assert places["large.py"] == "over_large"
    assert places[f"a.jsonl@{len(lines[0]) + 1}"] == "bad_json"


def test_an_endless_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    options = InputOptions(max_row_bytes=10)
    path.write_bytes(b'{"text":"' + b"x" * (2 * options.longest_line) + b'"}\n' + b'{"text":"ok","path":"a.py"}\n')
    (shard,) = inputs.plan([str(path)], options, 1 << 30).shards
    found = list(batches.rows(shard, options))
    assert [(row.text, row.reason) for row in found] == [(b"", "over_large"), (b"ok", "")]
    assert found[1].place == f"@{path.stat().st_size - 28}"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_missing_text_column_names_those_that_there_are(tmp_path: Path, name: str) -> None:
    path = (write_parquet if name == "a.parquet" else write_jsonl)(tmp_path / name, [{"content": "x", "lang": "Go"}])
    with pytest.raises(UserError, match=rf"{name}: no column 'text'; it has content, lang; set collect\.text_column"):
        run_collect(recipe(path), tmp_path / "run")


def test_a_text_column_of_numbers_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"text": 1}])
    with pytest.raises(UserError, match="column 'text' holds int64, not text"):
        run_collect(recipe(path), tmp_path / "run")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = (write_parquet if name == "a.parquet" else write_jsonl)(tmp_path / name, RECORDS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] if damage == "cut" else b"not what the name says" * 100)
    good = write_tree(tmp_path / "good", {"a.py": program(0)})
    with pytest.raises(UserError, match=rf"{name}: cannot be read whole"):
        run_collect(recipe(good, path), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_damage_inside_a_parquet_file_is_found(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", RECORDS)
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read whole"):
        run_collect(recipe(path), tmp_path / "run")


def test_an_empty_parquet_or_jsonl_file_is_an_input_without_a_document(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(b"")
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(UserError, match=rf"{name}: no document in it \(it is empty\)"):
            run_collect(recipe(tmp_path / name), tmp_path / f"run-{name}")


def test_one_huge_row_group_is_streamed_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codeshell.data import collect

    monkeypatch.setattr(collect, "GROUP_BYTES", 2000)
    path = write_parquet(tmp_path / "a.parquet", RECORDS, group=10**6)
    run_collect(recipe(path, shard_bytes=2000), tmp_path / "run")
    source = pq.ParquetFile(tmp_path / "run/collect/documents-00000.parquet")
    assert source.metadata.num_rows == len(RECORDS)
    assert source.num_row_groups > 3


def test_what_a_driver_of_urls_raises_names_the_url() -> None:
    class NetworkError(Exception):
        """An error of a library that fsspec's driver uses; it is no OSError."""

    with (
        pytest.raises(UserError, match=r"hf://a: cannot be opened \(no route\); fix the URL"),
        readers.driver("hf://a"),
    ):
        raise NetworkError("no\nroute")
    with pytest.raises(FileNotFoundError), readers.driver("hf://a"):
        raise FileNotFoundError
