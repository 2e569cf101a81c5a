"""No worker outlives the process that it works for, and every end of that process is clean."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WAIT = 60.0
"""Seconds for what takes less than two."""

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from codeshell.engine import LocalEngine
from codeshell.engine.files import atomic_path

def linger(number):
    with atomic_path(Path(sys.argv[1]) / f"shard-{number}") as temporary:
        temporary.write_bytes(b"half")
        (Path(sys.argv[1]) / f"pid-{number}").write_text(str(os.getpid()))
        time.sleep(600)

def busy(number):
    (Path(sys.argv[1]) / f"pid-{number}").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with LocalEngine(2) as engine:
        list(engine.map({"linger": linger, "busy": busy}[sys.argv[2]], range(4)))
"""


def group(pid: int) -> list[int]:
    """The processes of a session that are not dead."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def default_signals() -> None:
    """The tests themselves may run by `nohup` or in the background, where these are ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def started(command: list[str], preexec_fn: Callable[[], object] = default_signals) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, whose output we read; nothing of it stays after the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=preexec_fn,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGSEGV], ids=lambda n: n.name
)
def test_a_script_that_is_killed_leaves_no_process_no_pipe_and_no_half_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with started([sys.executable, str(script), str(tmp_path), "linger"]) as process:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        process.send_signal(number)
        process.communicate(timeout=WAIT)  # returns when no process holds the pipe
        until(lambda: not group(process.pid))
        assert process.returncode == -number
    assert not list(tmp_path.glob("shard-*"))


def test_a_worker_in_a_long_call_ends_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with started([sys.executable, str(script), str(tmp_path), "busy"]) as process:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        process.kill()
        process.communicate(timeout=WAIT)
        until(lambda: not group(process.pid))


def test_a_killed_parent_of_a_killed_parent(tmp_path: Path) -> None:
    """A shell, or a test runner, starts the command; both die."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    outer = f"import subprocess, sys; subprocess.run([sys.executable, {str(script)!r}, {str(tmp_path)!r}, 'linger'])"
    with started([sys.executable, "-c", outer]) as process:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=WAIT)
        until(lambda: not group(process.pid))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Enough text that a command is still at work when the signal comes."""
    path = tmp_path / "a.jsonl"
    line = '{"text": "%s"}\n'
    path.write_text("".join(line % " ".join(f"w{n * 7 + k % 31}x{k}" for k in range(400)) for n in range(3000)))
    return path


def command(corpus: Path, tmp_path: Path) -> list[str]:
    run = [sys.executable, "-m", "codeshell", "dedup", str(corpus), "-o", str(tmp_path / "out")]
    return [*run, "--workers", "2"]


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, 143, "codeshell: ended by SIGTERM; what is finished is kept"),
        (signal.SIGHUP, 129, "codeshell: ended by SIGHUP; what is finished is kept"),
        (signal.SIGINT, 130, "codeshell: interrupted; what is finished is kept"),
    ],
    ids=["TERM", "HUP", "INT"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["process", "terminal"])
def test_a_signal_ends_a_command_with_one_line(
    corpus: Path, tmp_path: Path, number: signal.Signals, code: int, words: str, whole: bool
) -> None:
    with started(command(corpus, tmp_path)) as process:
        until(lambda: (tmp_path / "out" / "work").exists())
        if whole:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        told, _ = process.communicate(timeout=WAIT)
        assert not group(process.pid)
    assert (process.returncode, told.strip().splitlines()) == (code, [words])
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("delay", [0.3, 0.45, 0.6])
def test_ctrl_c_while_the_workers_start_prints_no_traceback(corpus: Path, tmp_path: Path, delay: float) -> None:
    with started(command(corpus, tmp_path)) as process:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=WAIT)
        until(lambda: not group(process.pid))
    # Before `main` begins, or after it has ended, the interrupt is Python's own.
    if "interrupted" in told or process.returncode == 130:
        assert told.strip() == "codeshell: interrupted; what is finished is kept"


def test_signals_that_the_caller_ignores_stay_ignored(corpus: Path, tmp_path: Path) -> None:
    """`nohup`, and a job in the background of a script."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with started(command(corpus, tmp_path), preexec_fn=ignore) as process:
        until(lambda: (tmp_path / "out" / "work").exists())
        os.killpg(process.pid, signal.SIGHUP)
        os.killpg(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=2 * WAIT)
    assert process.returncode == 0, told


def test_a_worker_that_is_told_to_end_is_missed_and_resumable(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with started([sys.executable, str(script), str(tmp_path), "linger"]) as process:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        until(lambda: all(path.read_text() for path in tmp_path.glob("pid-*")))
        os.kill(int(next(iter(tmp_path.glob("pid-*"))).read_text()), signal.SIGTERM)
        told, _ = process.communicate(timeout=WAIT)
        until(lambda: not group(process.pid))
    assert "a worker process died (killed, or out of memory); run again to resume" in told
    assert not list(tmp_path.glob("shard-*"))
