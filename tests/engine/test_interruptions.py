"""Ctrl-C, killed workers, and attempts of one task that write at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from codeshell.engine import LocalEngine, map_shards
from codeshell.engine.files import TEMPORARY, atomic_path, attempt
from codeshell.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

WAIT = 30.0
"""Seconds for what takes less than two."""

INTERRUPTED = """
import sys
from pathlib import Path
from codeshell.engine import LocalEngine
import test_interruptions

if __name__ == "__main__":
    with LocalEngine(2) as engine:
        list(engine.map(test_interruptions.linger, [(Path(sys.argv[1]), number) for number in range(8)]))
"""


def linger(task: tuple[Path, int]) -> None:
    """Write a file for longer than any test waits."""
    directory, number = task
    with atomic_path(directory / f"shard-{number}") as temporary:
        temporary.write_bytes(b"half")
        (directory / f"pid-{number}").write_text(str(os.getpid()))
        time.sleep(10 * WAIT)


def die_on_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def double(number: int) -> int:
    return 2 * number


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "process"])
def test_an_interrupt_ends_at_once_and_leaves_no_process(tmp_path: Path, group: bool) -> None:
    """A terminal sends Ctrl-C to the workers too; `kill -INT` reaches the command alone."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    home = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": home},
    )
    try:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        until(lambda: all(path.read_text() for path in tmp_path.glob("pid-*")))
        if group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=WAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode in (-signal.SIGINT, 1)
    assert told.rstrip().endswith("KeyboardInterrupt")
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2  # none of the others was begun
    until(lambda: not any(alive(pid) for pid in pids))
    assert not list(tmp_path.glob("shard-[0-9]"))


def test_an_engine_works_again_after_a_worker_was_killed() -> None:
    with LocalEngine(2) as engine:
        with pytest.raises(UserError, match=r"a worker process died \(killed, or out of memory\); run again to"):
            list(engine.map(die_on_two, range(6)))
        assert list(engine.map(double, range(6))) == [0, 2, 4, 6, 8, 10]


def test_an_earlier_attempt_that_lives_cannot_spoil_the_file_of_a_later_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with attempt(1), atomic_path(target) as later, open(later, "wb") as new:
        with attempt(0), atomic_path(target) as earlier, open(earlier, "wb") as old:
            old.write(b"wh")
            new.write(b"w")
            new.flush()
            old.write(b"ole")
        assert target.read_bytes() == b"whole"
        new.write(b"hole")
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_an_earlier_attempt_that_ends_late_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(FileNotFoundError), attempt(0), atomic_path(target) as earlier, open(earlier, "wb") as old:
        old.write(b"wh")
        old.flush()
        with attempt(2), atomic_path(target) as later:
            later.write_bytes(b"whole")
        assert target.read_bytes() == b"whole"
        old.write(b"at else")
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_later_attempt_takes_away_what_killed_ones_left(tmp_path: Path) -> None:
    for name in (f"file{TEMPORARY}", f"file.1{TEMPORARY}", f"other{TEMPORARY}", f"file.3{TEMPORARY}"):
        (tmp_path / name).write_bytes(b"half")
    with attempt(2), atomic_path(tmp_path / "file") as temporary:
        assert temporary.name.endswith(TEMPORARY)  # which a stage may delete when it starts
        temporary.write_bytes(b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", f"other{TEMPORARY}", f"file.3{TEMPORARY}"}
    with atomic_path(tmp_path / "file") as temporary:
        assert temporary.name == f"file{TEMPORARY}"  # outside the block, names are the first attempt's again
        temporary.write_bytes(b"whole")


class ElsewhereEngine(LocalEngine):
    """Its tasks' files come to be seen here `seconds` after they are written, or never."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds = seconds

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        results = [function(item) for item in items]
        for marker in Path(function.args[0]).glob("double-*.json"):  # type: ignore[attr-defined]
            hidden = marker.rename(marker.with_suffix(".hidden"))
            if self.seconds:
                threading.Timer(self.seconds, hidden.rename, [marker]).start()
        yield from results


def count(number: int) -> dict[str, Any]:
    return {"number": number}


def test_markers_that_are_seen_late_are_waited_for(tmp_path: Path) -> None:
    assert map_shards(ElsewhereEngine(0.3), tmp_path, "double", count, [5, 6]) == [{"number": 5}, {"number": 6}]


def test_a_directory_that_nodes_do_not_share_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeshell.engine.shard_map.SEEN_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"double-00000\.json: written, but not seen here; every node must have"):
        map_shards(ElsewhereEngine(0), tmp_path, "double", count, [5])
