"""Files of completions: whatever stops a generation, what was written counts once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.completions_file import CompletionsFile

BY = {"task": "humaneval", "model": {"name": "m", "hash": "1"}, "temperature": 0.2}
ROWS = [("Own/0", 0, "    return \udc80\n", True), ("Own/1", 0, "é", False)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_have_what_other_tools_read_and_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionsFile(path, BY) as file:
        file.append(ROWS)
    assert rows(path)[0] == {
        "task_id": "Own/0", "completion": "    return \udc80\n", "sample": 0, "ended": True, "by": BY,
    }  # fmt: skip
    with CompletionsFile(path, BY) as file:
        assert file.done == {("Own/0", 0), ("Own/1", 0)}
        file.append([("Own/0", 1, "", True)])
    assert [(row["task_id"], row["sample"]) for row in rows(path)] == [("Own/0", 0), ("Own/1", 0), ("Own/0", 1)]


def test_every_cut_of_the_file_is_a_file_that_resumes(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionsFile(path, BY) as file:
        file.append(ROWS)
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with CompletionsFile(path, BY) as file:
            kept = len(file.done)
            assert kept == sum(end <= length for end in ends)
            file.append(ROWS[kept:])
        assert path.read_bytes() == whole


def test_another_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionsFile(path, BY) as file:
        file.append(ROWS)
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"with temperature 0\.2, and this run has 0\.8; choose another -o"):
        CompletionsFile(path, BY | {"temperature": 0.8})
    with pytest.raises(UserError, match=r'with model {"name": "m", "hash": "1"}'):
        CompletionsFile(path, BY | {"model": {"name": "m", "hash": "2"}})
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n", "line 1: no completion"),
        ('{"task_id": "Own/0", "completion": ""}\n', "line 1: no completion"),
        ("\n", "line 1: no completion"),
        (json.dumps({"task_id": "a", "sample": 0, "by": BY, "completion": ""}) + "\n", "a second time"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    text = text * 2 if "second" in message else text
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        CompletionsFile(path, BY)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["notes without a line feed", '{"task": 1}', "x" * 100_000])
def test_a_file_without_a_whole_line_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"notes\.txt: its end is no completion"):
        CompletionsFile(path, BY)
    assert path.read_text() == text


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionsFile(path, BY), pytest.raises(UserError, match="another process writes to it"):
        CompletionsFile(path, BY)


def test_a_full_disk_is_one_line_and_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.jsonl"

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with CompletionsFile(path, BY) as file:
        file.append(ROWS[:1])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            file.append(ROWS[1:])
    monkeypatch.undo()
    with CompletionsFile(path, BY) as file:
        assert ("Own/0", 0) in file.done


def test_a_device_is_no_file() -> None:
    for device in ("/dev/full", "/dev/null"):
        with pytest.raises(UserError, match="a device or a pipe"):
            CompletionsFile(Path(device), BY)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises((UserError, FileNotFoundError)):
        CompletionsFile(tmp_path / "no" / "c.jsonl", BY)
