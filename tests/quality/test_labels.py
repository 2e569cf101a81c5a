"""Labels: what is read, what is counted, and what is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.errors import UserError
from codeshell.quality.labels import read_labels


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "text": f"x = {i}\n",
            "score": i % 6,
            "repo": f"r{i % 7}",
            "path": f"a{i}.py",
            "language": "python",
            "value": i % 5 + 0.5,
        }
        for i in range(count)
    ]


def jsonl(path: Path, records: list[Any]) -> str:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def parquet(path: Path, records: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(records), path)
    return str(path)


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_labels_are_read(tmp_path: Path, write: Any) -> None:
    found = read_labels([write(tmp_path / ("a.jsonl" if write is jsonl else "a.parquet"), rows())])
    assert found.names == ("quality", "value")
    assert found.score.tolist() == [float(i % 6) for i in range(60)]
    assert found.targets[:, 1].tolist() == [i % 5 + 0.5 for i in range(60)]
    assert found.groups[:8] == ("r0", "r1", "r2", "r3", "r4", "r5", "r6", "r0")
    assert found.documents["language"].to_pylist() == ["python"] * 60
    assert found.documents["bytes"].to_pylist() == [len(f"x = {i}\n") for i in range(60)]
    assert found.left_out == {}


def test_other_columns_and_several_files(tmp_path: Path) -> None:
    records = [{"content": r["text"], "mark": r["score"], "project": r["repo"]} for r in rows()]
    names = [jsonl(tmp_path / "a.jsonl", records[:30]), parquet(tmp_path / "b.parquet", records[30:])]
    found = read_labels(names, text_column="content", score_column="mark", group_column="project")
    assert len(found) == 60
    assert found.names == ("quality",)
    # Neither a language nor a path says what it is.
    assert set(found.documents["language"].to_pylist()) == {"unknown"}


def test_a_path_tells_the_language(tmp_path: Path) -> None:
    records = [{**row, "language": None, "path": "src/a.rs"} for row in rows()]
    assert set(read_labels([parquet(tmp_path / "a.parquet", records)]).documents["language"].to_pylist()) == {"rust"}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": None}, "no_text"),
    ({"text": ""}, "no_text"),
    ({"text": "\ud800"}, "no_text"),
    ({"text": 3}, "no_text"),
    ({"score": None}, "no_score"),
    ({"score": "5"}, "no_score"),
    ({"score": True}, "no_score"),
    ({"score": float("nan")}, "no_score"),
    ({"score": 5.01}, "out_of_range"),
    ({"score": -1}, "out_of_range"),
    ({"score": 10**400}, "no_score"),
    ({"repo": None}, "no_group"),
    ({"repo": ""}, "no_group"),
]


def test_unusable_labels_are_counted(tmp_path: Path) -> None:
    bad = [{**rows(1)[0], **change} for change, _ in BAD]
    found = read_labels([jsonl(tmp_path / "a.jsonl", [*rows(), *bad, "no json", ""])])
    assert len(found) == 60
    counts = {reason: sum(r == reason for _, r in BAD) for reason in {r for _, r in BAD}}
    counts["no_text"] += 1  # the line that is no JSON has none
    assert found.left_out == counts


def test_a_dimension_that_one_label_lacks_is_none(tmp_path: Path) -> None:
    records = rows()
    records[3]["value"] = None
    assert read_labels([parquet(tmp_path / "a.parquet", records)]).names == ("quality",)


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (rows(20), {}, "20 labels that can be used"),
        ([{**row, "score": 9} for row in rows()], {}, "0 labels that can be used .60 out_of_range"),
        ([{"text": "a", "score": 1}] * 60, {}, "name the column of the repository with --group-column"),
        ([{"text": "a", "repo": "b"}] * 60, {}, "no column 'score'.*--score-column"),
        (rows(), {"text_column": "content"}, "no column 'content'; there are .*--text-column"),
    ],
)
@pytest.mark.parametrize("write", [jsonl, parquet])
def test_what_is_refused(tmp_path: Path, records: Any, options: Any, message: str, write: Any) -> None:
    path = write(tmp_path / ("a.jsonl" if write is jsonl else "a.parquet"), records)
    with pytest.raises(UserError, match=message) as error:
        read_labels([path], **options)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    whole = Path(parquet(tmp_path / "b.parquet", rows())).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("a.txt", "neither"),
        ("no.parquet", "no such file"),
        ("cut.parquet", "cannot be read whole"),
        (".", "a folder"),
    ):
        with pytest.raises(UserError, match=message):
            read_labels([str(tmp_path / name)])


def test_shared_labels() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "quality" / "labels.parquet"
    if not path.exists():
        pytest.skip(f"NOT RUN: {path} is not here")
    found = read_labels([str(path)])
    assert len(found) == 786
    assert len(found.names) == 5
    assert np.isfinite(found.targets).all()
