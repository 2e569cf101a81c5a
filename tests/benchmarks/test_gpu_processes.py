"""Processes of the GPU check: their limits, their children, and forks that are like new interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def run(*command: str, limit: float = 90.0, quiet: float = 90.0, **environment: str) -> Any:
    from gpu.processes import Cold, watch

    return watch(Cold(), command, os.environ | environment, limit=limit, quiet=quiet)


def test_ends() -> None:
    ended = run("-c", "print('out'); import sys; print('error', file=sys.stderr); raise SystemExit(3)")
    assert (ended.how, ended.code, ended.output) == ("exited", 3, "out\nerror\n")
    assert run("-c", "import os; os.abort()").code == -6
    assert run("-c", "import os; os.close(1); os.close(2); raise SystemExit(4)").code == 4


@pytest.mark.parametrize(("limits", "how"), [({"limit": 1.5}, "limit"), ({"quiet": 1.0}, "quiet")])
def test_a_process_over_its_limit_ends_with_its_children(limits: dict[str, float], how: str) -> None:
    code = "import subprocess; print('started', flush=True); subprocess.run(['sleep', '1000'])"
    ended = run("-c", code, **limits)
    # The children hold the output's pipe: had they lived on, this would have waited for them.
    assert ended.how == how and ended.output.startswith("started")
    assert ended.seconds < 60


def test_output_is_a_sign_of_life() -> None:
    code = "import time\nfor _ in range(12): print('test', flush=True); time.sleep(0.5)"
    assert run("-c", code, quiet=5.0).how == "exited"


def test_a_process_that_ignores_the_first_signal_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"
    ended = run("-c", code, quiet=0.5)
    assert ended.how == "quiet" and ended.code == -9


def test_the_innermost_calls_of_a_hang_are_kept() -> None:
    code = (
        "import time\ndef deep(n): deep(n - 1) if n else innermost()\ndef innermost(): print('x' * 9999, flush=True); "
    )
    ended = run("-c", code + "time.sleep(1000)\ndeep(200)", quiet=0.5, PYTHONFAULTHANDLER="1")
    assert ended.how == "quiet" and "innermost" in ended.output and len(ended.output) < 5000


def test_the_end_of_a_long_output_is_kept() -> None:
    ended = run("-c", "print('x' * 1_000_000); print('last')")
    assert ended.output.endswith("x\nlast\n") and len(ended.output) < 10_000


FORKS = """
import json, os, sys
sys.path.insert(0, {benchmarks!r})
from gpu.processes import Warm, watch
import codeshell.kernels
start = Warm()
ended = []
for command in json.loads(sys.argv[1]):
    made = watch(start, command, os.environ | {{"PYTHONPATH": {site!r}, "ONLY": "here"}}, limit=90, quiet=90)
    ended.append([made.how, made.code, made.output])
print(json.dumps(ended))
"""


def forks(site: Path, *commands: list[str]) -> list[list[Any]]:
    """How these commands end as forks of one process, which has codeshell of this checkout."""
    code = FORKS.format(benchmarks=str(BENCHMARKS), site=str(site))
    command = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    ends: list[list[Any]] = json.loads(done.stdout)
    return ends


def test_a_fork_is_like_a_new_interpreter(tmp_path: Path) -> None:
    package = tmp_path / "codeshell"
    package.mkdir()
    (package / "__init__.py").write_text("where = 'the site'")
    (package / "__main__.py").write_text("import sys; print(__name__, sys.argv[1:])")
    script = tmp_path / "other" / "script.py"
    script.parent.mkdir()
    (script.parent / "beside.py").write_text("value = 5")
    script.write_text("import beside, os, sys; print(__name__, sys.argv, beside.value, os.environ['ONLY'])")
    shows = "import sys, codeshell; print(codeshell.where, 'torch' in sys.modules, sys.argv)"
    ends = forks(
        tmp_path,
        ["-c", shows, "x"],
        ["-P", "-m", "codeshell", "-v", "a"],
        [str(script), "--json", "f"],
        ["-c", "raise SystemExit(7)"],
        ["-c", "raise SystemExit('a message')"],
        ["-c", "raise ValueError('broken')"],
        ["-c", "import os; os.kill(os.getpid(), 9)"],
        ["-c", "import torch; assert not torch.cuda._is_in_bad_fork() and torch.ones(3).sum() == 3"],
        ["-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'], check=True)"],
    )
    assert ends[0] == ["exited", 0, "the site True ['-c', 'x']\n"]
    assert ends[1] == ["exited", 0, "__main__ ['-v', 'a']\n"]
    assert ends[2] == ["exited", 0, f"__main__ {[str(script), '--json', 'f']} 5 here\n"]
    assert ends[3] == ["exited", 7, ""]
    assert ends[4] == ["exited", 1, "a message\n"]
    assert ends[5][:2] == ["exited", 1] and "ValueError: broken" in ends[5][2]
    assert ends[6][:2] == ["exited", -9]
    assert ends[7] == ["exited", 0, ""]
    assert ends[8] == ["exited", 0, "1\n"]


def test_a_fork_dies_with_the_program(tmp_path: Path) -> None:
    mark = tmp_path / "process"
    begin = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(1000)"
    code = FORKS.format(benchmarks=str(BENCHMARKS), site=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps([["-c", begin]])], cwd=ROOT)
    end = time.monotonic() + 90
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    state = Path(f"/proc/{mark.read_text()}/stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.02)


TESTS = """
import pytest, sys, time, types
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip
def test_skipped(): pass
@pytest.fixture
def torn():
    yield
    raise ValueError("in the teardown")
def test_torn(torn): pass
def test_loses_the_gpu(monkeypatch):
    def synchronize(): raise RuntimeError("CUDA error: an illegal memory access was encountered\\nmore")
    sys.modules["torch"] = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize))
    assert False
def test_never_reached(): pass
"""


def report(folder: Path, tests: str = TESTS) -> tuple[Any, dict[str, Any]]:
    from gpu import reporter

    (folder / "test_it.py").write_text(tests)
    out = folder / "report.jsonl"
    command = ["-m", "pytest", "-vv", "-p", "gpu.reporter", "-p", "no:cacheprovider", "-c", "/dev/null"]
    environment = {"PYTHONPATH": str(BENCHMARKS), "GPU_CHECK_REPORT": str(out), "PYTHONUNBUFFERED": "1"}
    ended = run(*command, str(folder / "test_it.py"), **environment)
    return ended, reporter.read(out)


def test_the_reporter_counts_and_stops_where_cuda_is_lost(tmp_path: Path) -> None:
    ended, found = report(tmp_path)
    assert ended.code == 3 and "CUDA works no more in this process" in ended.output
    assert (found["passed"], found["failed"], found["skipped"]) == (2, 3, 1)
    assert [message.partition(":")[0] for message in found["messages"]] == [
        "test_bad",
        "test_torn",
        "test_loses_the_gpu",
    ]
    assert "assert 1 == 2" in found["messages"][0] and "in the teardown" in found["messages"][1]
    assert found["broken"] == "CUDA error: an illegal memory access was encountered"
    assert found["running"] == "" and "test_good" in found["slowest"]


def test_the_reporter_knows_in_which_test_the_process_ended(tmp_path: Path) -> None:
    dies = "import os\ndef test_good(): pass\ndef test_dies(): os.kill(os.getpid(), 9)\ndef test_later(): pass"
    ended, found = report(tmp_path, tests=dies)
    assert ended.code == -9 and "test_dies" in ended.output
    assert found["passed"] == 1 and found["running"].endswith("test_dies")


def test_a_report_that_was_cut_off(tmp_path: Path) -> None:
    from gpu import reporter

    (tmp_path / "r").write_text('{"start": "a::b"}\n{"test": "a::b", "outcome": "passed", "seconds": 1, "mes')
    assert reporter.read(tmp_path / "r")["running"] == "a::b"
    assert reporter.read(tmp_path / "none")["passed"] == 0
