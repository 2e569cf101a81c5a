"""Problem sets are found, checked and named by their content."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.functional_sets import HUMANEVAL, SETS, write_sets

from codeshell.errors import UserError
from codeshell.evaluate import problem_sets
from codeshell.evaluate.problem_sets import FOLDER_VARIABLE, load


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_every_set_from_a_folder_and_from_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sets(tmp_path / "sets")
    for name, (_, rows) in SETS.items():
        found = load(name, str(folder))
        assert found.rows == rows and found.facts["problems"] == len(rows)
        monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
        assert load(name) == found
        monkeypatch.delenv(FOLDER_VARIABLE)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", HUMANEVAL)
    other_order = [dict(reversed(row.items())) for row in HUMANEVAL]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in other_order) + "\n\n"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    changed = write(tmp_path / "c.jsonl", [HUMANEVAL[0] | {"test": "pass"}, HUMANEVAL[1]])
    hashes = [load("humaneval", path).sha256 for path in (plain, str(tmp_path / "b.jsonl.gz"), changed)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HUMANEVAL[0], {"task_id": "x"}], "problem 2: no field 'prompt'"),
        ([HUMANEVAL[0] | {"prompt": 3}], "field 'prompt' is int"),
        ([HUMANEVAL[0], HUMANEVAL[0]], "'Own/0' twice"),
        ([], "no problems in it"),
        ([HUMANEVAL[0], ["a"]], "line 2: list, not an object"),
    ],
)
def test_what_is_wrong_with_a_file(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load("humaneval", write(tmp_path / "set.jsonl", rows))


def test_a_flag_is_no_number(tmp_path: Path) -> None:
    row = SETS["humaneval+"][1][0]
    with pytest.raises(UserError, match="'atol' is bool"):
        load("humaneval+", write(tmp_path / "set.jsonl", [row | {"atol": True}]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(HUMANEVAL[0]).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "text.jsonl").write_text('{"a": \n', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "cut.jsonl.gz": "cannot be read",
        "text.jsonl": "line 1: no JSON",
        "missing.jsonl": "not there",
        "empty": "no humaneval.jsonl",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            load("humaneval", str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_file_that_claims_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_sets, "LARGEST", 1000)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(UserError, match="no problem set is that large"):
        load("humaneval", str(tmp_path / "bomb.jsonl.gz"))


def test_the_hub_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, config: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((path, config, split))
        return SETS["mbpp"][1] if split == "test" else []

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = load("mbpp")
    assert found.rows == SETS["mbpp"][1] and found.source == "hub: google-research-datasets/mbpp full"
    assert [split for _, _, split in asked] == ["prompt", "test", "validation", "train"]


def test_without_a_folder_and_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=no_network))
    with pytest.raises(UserError, match=r"from the hub \(no route to host\); give a file or folder by --data"):
        load("humaneval")
    with pytest.raises(UserError, match="the hub has no copy"):
        load("infill:python")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"--data or CODESHELL_PROBLEMS.*pip install datasets"):
        load("multipl-e:lua")
