"""The journal of verdicts: whatever cuts it, what was whole stays and what follows is readable; foreign files stay."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.evaluate.journal import HEAD, Journal
from codeshell.evaluate.verdicts import Judged, Verdict

VERDICTS = [
    Judged(Verdict.PASS, seconds=0.5),
    Judged(Verdict.WRONG, "assert f(1) == 2\u2026", "é\n"),
    Judged(Verdict.OUTPUT),
]


def filled(path: Path) -> None:
    with Journal(path) as journal:
        for number, judged in enumerate(VERDICTS):
            journal.add(f"key{number}", judged)


def test_what_is_added_is_there_at_once_and_later(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    with Journal(path) as journal:
        assert "a" not in journal and journal.get("a") is None
        journal.add("a", VERDICTS[1], again=True)
        assert journal.get("a") == (VERDICTS[1], True)
        journal.add("a", VERDICTS[0])
        assert journal.get("a") == (VERDICTS[0], False) and len(journal) == 1
    with Journal(path) as journal:
        assert journal.get("a") == (VERDICTS[0], False) and len(journal) == 1
    # Every line is JSON, so other tools read it.
    assert json.loads(path.read_text().splitlines()[0]) == HEAD


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_at_any_byte_loses_the_cut_line_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "verdicts.jsonl"
    filled(path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at])
    lines = whole[:at].count(b"\n")
    with Journal(path) as journal:
        known = max(0, lines - 1)
        assert [journal.get(f"key{n}") for n in range(3)] == [(j, False) for j in VERDICTS[:known]] + [None] * (
            3 - known
        )
        journal.add("more", VERDICTS[2])
    with Journal(path) as journal:
        assert len(journal) == known + 1 and journal.get("more") == (VERDICTS[2], False)


@pytest.mark.parametrize("damage", [b"{}\n", b"\x00\x00\n", b'{"key": "x", "verdict": "great"}\n', b"[]\n", b'"key"\n'])
def test_a_damaged_line_is_passed_over(tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "verdicts.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with Journal(path) as journal:
        assert len(journal) == 3 and journal.get("key2") == (VERDICTS[2], False)
    assert "1 damaged line" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"task_id": "HumanEval/0", "completion": ""}\n', "x", "\n", "\x7fELF" * 1000])
def test_a_foreign_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "completions.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"completions\.jsonl: not a journal"):
        Journal(path)
    assert path.read_text() == text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "a device or a pipe"),
        (tmp_path, "directory"),
        (tmp_path / "no/file", "folder"),
    ):
        with pytest.raises(UserError, match=words):
            Journal(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    with Journal(path), pytest.raises(UserError, match="another process writes"):
        Journal(path)
    # Released at the end, and also after a refusal.
    filled(path)


def test_a_full_disk_is_one_line_and_the_journal_stays_usable(tmp_path: Path) -> None:
    """A real refusal of the system, in a process that may write no file beyond a size."""
    path = tmp_path / "verdicts.jsonl"
    program = f"""
import resource, signal
from codeshell.evaluate.journal import Journal
from codeshell.evaluate.verdicts import Judged, Verdict
from codeshell.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
journal, count = Journal({str(path)!r}), 0
try:
    while True:
        journal.add(f"key{{count}}", Judged(Verdict.WRONG, "x" * 300))
        count += 1
except UserError as error:
    print(count)
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.add("after", Judged(Verdict.PASS))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, message = done.stdout.splitlines()
    assert int(count) > 3
    assert (
        message
        == f"{path}: the disk is full; free some space and run the same command again, its {count} verdicts are kept"
    )
    with Journal(path) as journal:
        assert len(journal) == int(count) + 1 and journal.get("after") == (Judged(Verdict.PASS), False)


def test_part_of_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdicts.jsonl"
    filled(path)
    before = path.read_bytes()
    real, calls = os.pwrite, []

    def part(file: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(file, data[:10], at)

    with Journal(path) as journal:
        monkeypatch.setattr(os, "pwrite", part)
        with pytest.raises(UserError, match="the disk is full"):
            journal.add("late", VERDICTS[0])
        monkeypatch.undo()
        assert path.read_bytes() == before and "late" not in journal


def test_a_kill_loses_nothing_that_was_added(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    program = f"""
from codeshell.evaluate.journal import Journal
from codeshell.evaluate.verdicts import Judged, Verdict
journal = Journal({str(path)!r})
count = 0
while True:
    journal.add(f"key{{count}}", Judged(Verdict.WRONG, "why"))
    count += 1
    print(count, flush=True)
"""
    child: Any = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    said = 0
    while said < 200:
        said = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    said = max(
        [said, *map(int, [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")])]
    )
    child.wait()
    with Journal(path) as journal:
        assert len(journal) >= said
        assert all(journal.get(f"key{number}") for number in range(said))
