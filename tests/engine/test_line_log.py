"""A file of lines that only grows: what was whole stays, what was cut goes with the next line, one process writes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.engine.line_log import LineLog
from codeshell.errors import UserError


def lines_of(path: Path) -> list[bytes]:
    with LineLog(path) as log:
        return [line for _, line in log.lines()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=6),
    st.binary(max_size=40).map(lambda rest: rest.replace(b"\n", b"")),
)
def test_whole_lines_stay_and_a_cut_one_goes_with_the_next(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    before = b"".join(lines) + rest
    path.write_bytes(before)
    with LineLog(path) as log:
        assert (log.end, log.cut) == (len(before) - len(rest), len(rest))
        assert [line for _, line in log.lines()] == lines
        assert all(log.read(start, len(line)) == line for start, line in log.lines())
        # Opening and reading change nothing.
        assert path.read_bytes() == before
        start = log.append(b"one\ntwo\n")
        assert log.read(start, 8) == b"one\ntwo\n"
    assert lines_of(path) == [*lines, b"one\n", b"two\n"]


@pytest.mark.parametrize("size", [1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_the_last_line_feed_is_found_however_far_from_the_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"x" * size)
    with LineLog(path) as log:
        assert (log.end, log.cut) == (6, size)


def test_part_of_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    with LineLog(path) as log:
        log.append(b"first\n")
        real = os.pwrite

        def part(file: int, data: bytes, at: int) -> int:
            if at > 6:
                raise OSError(errno.ENOSPC, "full")
            return real(file, data[:3], at)

        monkeypatch.setattr(os, "pwrite", part)
        with pytest.raises(OSError, match="full"):
            log.append(b"second\n")
        monkeypatch.undo()
        assert path.read_bytes() == b"first\n"
        # It stays usable.
        log.append(b"third\n", flush=True)
    assert lines_of(path) == [b"first\n", b"third\n"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with LineLog(tmp_path / "log"), pytest.raises(UserError, match="another process writes to it"):
        LineLog(tmp_path / "log")
    LineLog(tmp_path / "log").close()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(UserError, match="a device or a pipe"):
            LineLog(path)
    with pytest.raises(OSError):
        LineLog(tmp_path / "no" / "log")
