"""Shards: in order, resumed after the last marker, never half-written."""

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

from codeshell.engine import LocalEngine, map_shards
from codeshell.engine.files import TEMPORARY, atomic_path, make_directory, read_json, write_json
from codeshell.engine.progress import Progress
from codeshell.errors import UserError


def square(task: tuple[str, int]) -> dict[str, Any]:
    directory, number = task
    with open(Path(directory) / f"calls-{number}", "a") as file:
        file.write("x")
    return {"square": number * number}


def fail_on_three(task: tuple[str, int]) -> dict[str, Any]:
    if task[1] == 3:
        raise UserError("shard 3: broken; fix it")
    return square(task)


def die_on_three(task: tuple[str, int]) -> dict[str, Any]:
    if task[1] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(task)


def calls(directory: Path) -> dict[int, int]:
    return {int(path.name.split("-")[1]): len(path.read_text()) for path in directory.glob("calls-*")}


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(tmp_path: Path, workers: int) -> None:
    items = [(str(tmp_path), number) for number in range(9)]
    stats = map_shards(LocalEngine(workers), tmp_path, "square", square, items)
    assert stats == [{"square": number * number} for number in range(9)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_shard_keeps_the_others_and_resumes(tmp_path: Path, workers: int) -> None:
    items = [(str(tmp_path), number) for number in range(6)]
    with pytest.raises(UserError, match="shard 3: broken; fix it"):
        map_shards(LocalEngine(workers), tmp_path, "square", fail_on_three, items)
    before = calls(tmp_path)
    assert {0, 1, 2} <= set(before)
    stats = map_shards(LocalEngine(workers), tmp_path, "square", square, items)
    assert [entry["square"] for entry in stats] == [0, 1, 4, 9, 16, 25]
    done = {int(path.stem.split("-")[1]) for path in tmp_path.glob("square-*.json")}
    assert done == set(range(6))
    assert all(calls(tmp_path)[number] == 1 for number in (0, 1, 2))


def test_a_killed_worker_is_told_and_resumable(tmp_path: Path) -> None:
    items = [(str(tmp_path), number) for number in range(5)]
    with pytest.raises(UserError, match="a worker process died"):
        map_shards(LocalEngine(2), tmp_path, "square", die_on_three, items)
    assert map_shards(LocalEngine(2), tmp_path, "square", square, items)[3] == {"square": 9}


@pytest.mark.parametrize("given", [None, "7"])
def test_workers_keep_the_pages_of_arrow_and_the_caller_its_environment(tmp_path: Path, given: str | None) -> None:
    """In a process of its own, because the server of the workers lives as long as this one."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from codeshell.engine import LocalEngine\n"
        "def look(_):\n"
        "    return os.environ.get('MIMALLOC_PURGE_DELAY')\n"
        "if __name__ == '__main__':\n"
        "    before = dict(os.environ)\n"
        "    with LocalEngine(2) as engine:\n"
        "        print(*set(engine.map(look, range(3))), dict(os.environ) == before)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MIMALLOC_PURGE_DELAY"}
    environment |= {} if given is None else {"MIMALLOC_PURGE_DELAY": given}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "-1", "True"]


def modules(number: int) -> bool:
    return "codeshell.documents.columns" in sys.modules


def test_processes_that_start_early_import_what_they_will_run(tmp_path: Path) -> None:
    with LocalEngine(2, "codeshell.documents.columns") as engine:
        assert list(engine.map(modules, range(4))) == [True] * 4
    with LocalEngine(2, "codeshell.no_such_module") as engine:  # told by the task that needs it, not here
        assert list(engine.map(modules, range(4))) == [False] * 4
    with LocalEngine(1, "codeshell.no_such_module") as engine:
        assert list(engine.map(abs, [-1])) == [1]
    # A stage may learn only in its course that there is work for several.
    with LocalEngine(2) as engine:
        engine.prepare("codeshell.documents.columns")
        engine.prepare("codeshell.no_such_module")  # they have begun
        assert list(engine.map(modules, range(4))) == [True] * 4


def test_atomic_path_leaves_whole_files_or_none(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError("stop")
    assert target.read_text() == "old"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert not list(tmp_path.glob("*" + TEMPORARY))


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")])
def test_disk_errors_name_the_file_and_the_remedy(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught, atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))
    assert str(tmp_path / "file") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_full_disk_for_real(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / f"file{TEMPORARY}").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full"):
        write_json(tmp_path / "file", {"a": "b" * 100_000})
    assert not (tmp_path / "file").exists()


def test_a_file_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="in the way"):
        make_directory(tmp_path / "run")
    with pytest.raises(UserError, match="a part of this path is a file"):
        make_directory(tmp_path / "run" / "below")


def test_json_is_canonical_and_broken_json_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é"]})
    write_json(tmp_path / "b", {"a": [1.5, "é"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": [1.5, "é"], "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "c", float("nan"))
    (tmp_path / "d").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "d")


def test_progress_line_has_rate_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=10, unit="steps") as progress:
        progress.advance(4, loss=2.5)
        line = progress.line()
    assert line.startswith("train: 4/10 steps (")
    assert line.endswith("loss=2.5")
    assert "s left" in line
